"""What must hold after every fault, whatever the fault was.

1. Every point whose `log()` returned is in MLflow, once, with its value, its step, and a time within the call.
2. Every point in MLflow was logged: a point nobody noted as returned is allowed only for a call that a kill cut short.
3. The ledger that is stored with the run adds up, and agrees with the rows.

What was logged is known from a journal: after each returned call the trainer appends what it has logged to a file
(`O_APPEND`, one `write`), which survives a SIGKILL as the page cache does. A trainer in a hurry stores it in a mapped
file instead (`QuickJournal`): it would be writing nearly all the time, and no kill would fall inside of `log()`. What
is in MLflow is read from its database by SQL, without MLflow in between.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import sqlite3
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

__all__ = [
    "Journal",
    "MlflowDatabase",
    "Noted",
    "QuickJournal",
    "Row",
    "StoredRun",
    "check",
    "check_ledger",
    "eventually",
    "same",
]

T = TypeVar("T")


class Noted(NamedTuple):
    """A point whose call returned: between which two moments it was made (nanoseconds since the epoch)."""

    key: str
    step: int
    value: float
    before: int
    after: int


class Row(NamedTuple):
    """A row of MLflow's table of metrics."""

    key: str
    step: int
    value: float
    timestamp: int


class StoredRun(NamedTuple):
    """A run as MLflow's database has it."""

    run_id: str
    status: str
    deleted: bool
    end_time: int | None
    tags: Mapping[str, str]
    params: Mapping[str, str]

    @property
    def ledger(self) -> dict[str, Any]:
        """The tag `tailrace.ledger`."""
        found: dict[str, Any] = json.loads(self.tags["tailrace.ledger"])
        return found


class Journal:
    """Where a trainer writes what it has logged, as soon as `log()` has returned.

    Args:
        path: The file. Any number of processes may append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def note(self, step: int, values: Mapping[str, float], before: int, after: int) -> None:
        """Appends the points of one returned call, in one write."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        lines = "".join(f"{key}\t{step}\t{float(value).hex()}\t{before}\t{after}\n" for key, value in values.items())
        os.write(self._fd, lines.encode())

    def read(self) -> list[Noted]:
        """Everything noted. A last line without an end was being written when its process died: not noted."""
        text = self.path.read_text() if self.path.exists() else ""
        lines = (line.split("\t") for line in text.split("\n")[:-1])
        noted = [Noted(key, int(step), float.fromhex(value), int(a), int(b)) for key, step, value, a, b in lines]
        return noted + QuickJournal.read(self.path)


class QuickJournal:
    """The journal of a trainer in a hurry: one store of a record into a mapped file for each returned call.

    Args:
        path: The journal that it goes with.
        keys: What every call logs.
        calls: For how many there is room.
    """

    def __init__(self, path: Path, keys: list[str], calls: int = 200_000) -> None:
        _quick(path, ".keys").write_text(json.dumps(keys))
        self._record = _record(keys)
        fd = os.open(_quick(path, ".quick"), os.O_RDWR | os.O_CREAT, 0o600)
        os.truncate(fd, self._record.size * calls)
        self._map = mmap.mmap(fd, 0)
        self._at = 0
        os.close(fd)

    @property
    def full(self) -> bool:
        """Whether there is no room for another call."""
        return self._at >= len(self._map)

    def note(self, step: int, values: Mapping[str, float], before: int, after: int) -> None:
        """Stores one returned call. `after` comes last: a record without it was being stored at the death."""
        self._record.pack_into(self._map, self._at, step, before, *values.values(), after)
        self._at += self._record.size

    @staticmethod
    def read(path: Path) -> list[Noted]:
        """Everything noted."""
        if not _quick(path, ".quick").exists():
            return []
        keys = json.loads(_quick(path, ".keys").read_text())
        records, found = _quick(path, ".quick").read_bytes(), []
        for step, before, *values, after in _record(keys).iter_unpack(records):
            if not after:
                break
            found += [Noted(key, step, value, before, after) for key, value in zip(keys, values, strict=True)]
        return found


def _record(keys: list[str]) -> struct.Struct:
    """Step, time before, a value for each key, time after."""
    return struct.Struct(f"<qq{len(keys)}dq")


def _quick(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


class MlflowDatabase:
    """MLflow's SQLite database, read beside MLflow.

    Args:
        path: The file, or a `sqlite:///` URI of it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(str(path).removeprefix("sqlite:///"))

    def runs(self, experiment: str | None = None) -> list[StoredRun]:
        """All runs, deleted ones too, of one experiment or of all, as they were at one moment."""
        where, args = "", []
        if experiment is not None:
            where = "WHERE experiment_id = (SELECT experiment_id FROM experiments WHERE name = ?)"
            args = [experiment]
        with self._reading() as db:
            found = db.execute(f"SELECT run_uuid, status, lifecycle_stage, end_time FROM runs {where}", args)
            return [self._run(db, *row) for row in found.fetchall()]

    def run(self, tailrace_id: str) -> StoredRun | None:
        """The one run that carries tailrace's id; a deleted twin does not count."""
        runs = [run for run in self.runs() if run.tags.get("tailrace.run") == tailrace_id and not run.deleted]
        assert len(runs) <= 1, f"{len(runs)} runs in MLflow for one start_run"
        return runs[0] if runs else None

    def settled(self, tailrace_id: str, timeout: float = 30) -> StoredRun:
        """The run, once it has ended and its last ledger is stored with it, which is the last thing to happen."""

        def look() -> StoredRun | None:
            run = self.run(tailrace_id)
            if run is None or run.status == "RUNNING" or "tailrace.ledger" not in run.tags:
                return None
            return None if run.ledger["pending"] else run

        found = eventually(look, timeout, f"run {tailrace_id} was settled")
        assert found is not None
        return found

    def rows(self, run_id: str) -> list[Row]:
        """The run's metrics. NaN is a flag in MLflow, infinities are the largest finite numbers."""
        sql = "SELECT key, step, value, timestamp, is_nan FROM metrics WHERE run_uuid = ?"
        with self._reading() as db:
            found = db.execute(sql, [run_id]).fetchall()
        return [Row(key, step, math.nan if nan else value, at) for key, step, value, at, nan in found]

    def count(self, run_id: str) -> int:
        """How many metrics rows the run has."""
        with self._reading() as db:
            return int(db.execute("SELECT count(*) FROM metrics WHERE run_uuid = ?", [run_id]).fetchone()[0])

    def _run(self, db: sqlite3.Connection, run_id: str, status: str, stage: str, end_time: int | None) -> StoredRun:
        tags = dict(db.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [run_id]).fetchall())
        params = dict(db.execute("SELECT key, value FROM params WHERE run_uuid = ?", [run_id]).fetchall())
        return StoredRun(run_id, status, stage == "deleted", end_time, tags, params)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One transaction, so that what is read belongs together.

        Not `mode=ro`: who was killed in a commit leaves a journal that the next one to read has to roll back.
        """
        db = sqlite3.connect(f"file:{self.path}?mode=rw", uri=True, timeout=60, isolation_level=None)
        try:
            db.execute("BEGIN")
            yield db
        finally:
            db.close()


def check(
    noted: Iterable[Noted],
    rows: Iterable[Row],
    *,
    cut_short: int = 0,
    expected: Callable[[str, int], float] | None = None,
) -> None:
    """Compares what was logged with what is in MLflow.

    Args:
        noted: What returned.
        rows: What MLflow has.
        cut_short: Calls that a kill may have cut short after the row was safe and before it was noted.
        expected: The value that such a call would have logged, by key and step.
    """
    wanted = {(point.key, point.step): point for point in noted}
    stored = list(rows)
    doubled = [place for place, n in Counter((row.key, row.step) for row in stored).items() if n > 1]
    assert not doubled, f"{len(doubled)} points are in MLflow twice, {doubled[:3]} among them"
    found = {(row.key, row.step): row for row in stored}
    lost = sorted(wanted.keys() - found.keys(), key=lambda place: place[1])
    assert not lost, f"{len(lost)} of {len(wanted)} points were lost, {lost[:3]} … {lost[-3:]} among them"
    for place, point in wanted.items():
        row = found[place]
        assert same(row.value, point.value), f"{place}: logged {point.value!r}, MLflow has {row.value!r}"
        assert point.before // 1_000_000 <= row.timestamp <= point.after // 1_000_000, f"{place}: {row} {point}"
    invented = found.keys() - wanted.keys()
    calls = {(key.rpartition("/")[0], step) for key, step in invented}
    assert len(calls) <= cut_short, f"{len(calls)} calls are in MLflow that nobody made: {sorted(calls)[:5]}"
    for key, step in invented:
        assert expected is not None, f"{(key, step)} was never logged"
        assert same(found[key, step].value, expected(key, step)), f"{(key, step)} has a value that was never logged"


def check_ledger(run: StoredRun, rows: int | None = None, *, dead: int = 0, dropped: int = 0) -> dict[str, Any]:
    """Checks that the run's ledger adds up, is settled, and agrees with the rows in MLflow."""
    ledger = run.ledger
    for name, counts in {"total": ledger, **ledger["kinds"]}.items():
        settled = counts["delivered"] + counts["dead"] + sum(counts["dropped"].values())
        assert counts["accepted"] == settled + counts["pending"], f"the ledger of {name} does not add up: {counts}"
        assert counts["pending"] == 0, f"{name}: {counts}"
    assert ledger["dead"] == dead, ledger
    assert sum(ledger["dropped"].values()) == dropped, ledger
    if rows is not None:
        metrics = ledger["kinds"].get("metric", {"delivered": 0, "merged": 0})
        assert metrics["delivered"] - metrics["merged"] == rows, f"{rows} rows in MLflow, but {metrics}"
    return ledger


def same(stored: float, logged: float) -> bool:
    """Whether MLflow has what was logged: NaN is NaN, an infinity the largest number there is."""
    if math.isnan(logged):
        return math.isnan(stored)
    if math.isinf(logged):
        return abs(stored) == sys.float_info.max and (stored > 0) == (logged > 0)
    return stored == logged


def eventually(look: Callable[[], T], timeout: float, what: str, *, pause: float = 0.02) -> T:
    """Waits until `look` gives something true, and returns it; fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(pause)
