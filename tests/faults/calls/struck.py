"""Small runs that are struck at a call, what comes of them, and whether that keeps the promises."""

from __future__ import annotations

import json
import math
import pickle
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from faults.calls.cut import Call, Disk, calls
from faults.calls.library import library
from faults.calls.small import RUN, _text
from faults.oracle import Journal, Noted, Row, StoredRun, check, check_ledger
from faults.program import environment
from tailrace_agent.errors import SessionError
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.session import Session
from tailrace_agent.sinks.memory import MemoryRun

__all__ = [
    "FAIL",
    "KILL",
    "SHORT",
    "TORN",
    "Cut",
    "Done",
    "Server",
    "Small",
    "expected",
    "fell",
    "kind_of",
    "stored_run",
]

KILL, TORN, FAIL, SHORT = 1, 2, 3, 4
PROMISED = 0.5
"""Seconds after which what was logged survives a power cut, as docs/guarantees.md says."""


class Done(NamedTuple):
    """How a child ended: exit code (negative: the signal), and how many calls it made."""

    code: int
    calls: int


class Server:
    """The fork server of `small`. A context manager."""

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.calls.small"],
            env=environment(LD_PRELOAD=str(library())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def do(self, what: str, folder: Path, **plan: Any) -> Done:
        """One child; see `small.main`."""
        roots = plan.pop("roots", f"{folder}/state:{folder}/shared")
        line = json.dumps({"what": what, "folder": str(folder), "roots": roots, **plan})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Small:
    """One small run in a folder of its own.

    Args:
        server: Who runs it.
        folder: Made anew.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "shared").mkdir(parents=True)
        self.record, self.log = folder / "record", folder / "log"

    def run(self, **plan: Any) -> Done:
        """The trainer and the pipeline."""
        return self.server.do("run", self.folder, **plan)

    def recover(self, **plan: Any) -> Done:
        """A later agent."""
        return self.server.do("recover", self.folder, **plan)

    def errors(self) -> str:
        """What children had to say when they failed."""
        path = self.folder / "errors"
        return path.read_text()[-3000:] if path.exists() else ""

    @property
    def said(self) -> list[str]:
        """What has happened, in the trainer's words."""
        path = self.folder / "said"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def begun(self) -> bool:
        """Whether there is a session that somebody could take up."""
        path = self.folder / "session"
        return path.exists() and Path(path.read_text(), "session.json").exists()

    @property
    def finished(self) -> bool:
        """Whether an agent has left it with nothing to do."""
        return Path((self.folder / "session").read_text(), "finished").exists()

    def stored(self) -> MemoryRun | None:
        """The run in the store."""
        return stored_run(self.folder / "store")

    def verdict(self, *, exact: bool = True) -> None:
        """Whether everything is where it was promised to be.

        Args:
            exact: No call was cut short by a kill.
        """
        words = [word for word in self.said if not word.startswith("{")]
        noted, run = Journal(self.folder / "journal").read(), self.stored()
        if run is None:
            assert not noted, "it has logged, and there is no run"
            assert "started" not in words
            return
        dropped = sum(int(word.split()[1]) for word in words if word.startswith("dropped "))
        rows = rows_of(run)
        check(noted, rows, cut_short=0 if exact else 1, expected=expected)
        ledger = json.loads(run.tags["tailrace.ledger"])
        counted = sum(ledger["dropped"].values())
        assert dropped == counted if exact else dropped <= counted + 300, (dropped, ledger)
        check_ledger(_as_stored(run), len(rows), dropped=counted)
        if "started" in words:
            assert run.params == {"lr": "0.1", "depth": "3"}
        if "tagged" in words:
            assert run.tags["colour"] == "blue"
        for word in words:
            if word.startswith("artifact "):
                name = word.split()[1]
                assert run.artifacts.get(name) == _text(name).encode(), f"{name} is not in the store as it was"
        if "ended" in words:
            assert run.status == "FINISHED", run.status
        else:
            assert run.status in ("KILLED", "FINISHED")
        directory = Path((self.folder / "session").read_text())
        assert (directory / "finished").exists(), "the session is not finished"


class Cut:
    """A small run of which every call is kept, to be cut short of power at any of them.

    Args:
        server: Who runs it.
        folder: Made anew.
        plan: `away`: for how many rounds the store cannot be reached.
    """

    def __init__(self, server: Server, folder: Path, **plan: Any) -> None:
        self.small = small = Small(server, folder)
        self.folder = folder
        self._state, self._store = f"{folder}/state", f"{folder}/store"
        self._roots = f"{self._state}:{folder}/shared:{self._store}"
        done = small.run(record=str(small.record), roots=self._roots, must_settle=True, **plan)
        assert done.code == 0, small.errors()
        self.calls = list(calls(small.record.read_bytes()))
        self._marks = [json.loads(word) for word in small.said if word.startswith("{")]
        self._said, self._journal = (folder / "said").read_bytes(), (folder / "journal").read_bytes()

    def cut(self, rng: random.Random, *, at: int | None = None, again: bool = False) -> Call:
        """The power goes after a call; what is there then is what the disk makes of it.

        Args:
            rng: Chooses what the disk keeps.
            at: Which call; by default any.
            again: A later agent begins with what is there, and the power goes a second time.
        """
        at = rng.randrange(len(self.calls)) if at is None else at
        shutil.rmtree(self._state, ignore_errors=True)
        Path(self._store).unlink(missing_ok=True)
        self._lose_power(self.calls[: at + 1], rng)
        now = max((mark["now"] for mark in self._marks if mark["mark"] <= self.calls[at].end), default=0.0)
        self._known = self._noted(now)
        self._required = self._noted(now - PROMISED)
        if again and self._readable():
            self.small.record.write_bytes(b"")
            disk = Disk(self._state), Disk(self._store)
            self.small.recover(record=str(self.small.record), roots=self._roots)
            made = list(calls(self.small.record.read_bytes()))
            if made:
                self._lose_power(made[: rng.randrange(len(made)) + 1], rng, disk)
        return self.calls[at]

    def _lose_power(self, made: list[Call], rng: random.Random, disk: tuple[Disk, Disk] | None = None) -> None:
        state, store = disk or (Disk(self._state), Disk(self._store))
        for call in made:
            state.do(call)
            store.do(call)
        for part in (self._state, f"{self.folder}/shared"):
            shutil.rmtree(part, ignore_errors=True)
        for part in ("state", "shared"):
            (self.folder / part).mkdir(mode=0o700)
        Path(self._store).unlink(missing_ok=True)
        state.write(rng, rng.choice((0.0, 0.3, 0.7, 1.0)))
        store.write(None)

    def _readable(self) -> bool:
        directory = Path((self.folder / "session").read_text())
        try:
            Session.open(directory)
        except SessionError:
            return False
        return True

    def _noted(self, until: float) -> tuple[list[Noted], list[str]]:
        """What was logged and said until a time."""
        mark = max((mark for mark in self._marks if mark["now"] <= until + 1e-6), key=lambda m: m["now"], default=None)
        if mark is None:
            return [], []
        (self.folder / "part").write_bytes(self._journal[: mark["journal"]])
        said = self._said[: mark["said"]].decode().splitlines()
        return Journal(self.folder / "part").read(), [word for word in said if not word.startswith("{")]

    def verdict(self) -> None:
        """A later agent delivers what was promised, and nothing twice, and all counts agree."""
        (required, words), (known, known_words) = self._required, self._known
        if not self._readable():
            assert not required, "the session cannot be read, and was promised"
            assert not words
            return
        done = self.small.recover(must_settle=True)
        assert done.code == 0, self.small.errors()
        run = self.small.stored()
        if run is None:
            assert not required, "it was promised, and there is no run"
            return
        rows = rows_of(run)
        logged = {(point.key, point.step): point for point in known}
        assert {(row.key, row.step) for row in rows} <= logged.keys(), "something is in the store that nobody logged"
        found = {(row.key, row.step) for row in rows}
        check([point for point in known if (point.key, point.step) in found], rows)
        lost = [point for point in required if (point.key, point.step) not in found]
        assert not lost, f"{len(lost)} of {len(required)} promised points are lost, {lost[:2]} among them"
        ledger = json.loads(run.tags["tailrace.ledger"])
        told = {word.split()[1] for word in known_words if word.startswith("artifact ")}
        for name, body in run.artifacts.items():
            assert body == _text(name).encode(), f"{name} was torn, and counted as delivered"
        promised = {word.split()[1] for word in words if word.startswith("artifact ")}
        assert promised <= run.artifacts.keys(), f"{promised - run.artifacts.keys()} lost: {ledger['dropped']}"
        assert run.artifacts.keys() <= told
        artifacts = ledger["kinds"].get("artifact", {"delivered": 0, "dropped": {}})
        gone = ("cut short by a power cut", "staged copy is gone")
        cut_short = sum(artifacts["dropped"].get(reason, 0) for reason in gone)
        check_ledger(_as_stored(run), len(rows), dropped=cut_short)
        # One that had just arrived may be found cut short when it is to be sent again: it is there all the same.
        assert artifacts["delivered"] <= len(run.artifacts) <= artifacts["delivered"] + cut_short
        if "ended" in words:
            assert run.status == "FINISHED", run.status
        assert run.status in ("FINISHED", "KILLED")


def stored_run(path: Path) -> MemoryRun | None:
    """The one run of a store's file."""
    if not path.exists():
        return None
    runs, _ = pickle.loads(path.read_bytes())
    found = [run for run in runs.values() if run.tags.get("tailrace.run") == run_hex(RUN) and not run.deleted]
    assert len(found) <= 1, f"{len(found)} runs for one start_run"
    return found[0] if found else None


def rows_of(run: MemoryRun) -> list[Row]:
    """Its metrics as the oracle wants them."""
    return [Row(p.key, p.step, p.value, p.timestamp) for points in run.metrics.values() for p in points]


def expected(key: str, step: int) -> float:
    """What is logged under this key at this step."""
    if key.startswith("wide/"):
        return float(key[5:9])
    return step / 7 if key == "a/loss" else float(step) if key == "a/speed" else math.nan


def fell(log: Path) -> Counter[str]:
    """Which calls of a log were struck: what was done, to which call, on what kind of file."""
    found: Counter[str] = Counter()
    for line in log.read_text().splitlines() if log.exists() else ():
        _, name, path, what = line.split("\t")
        if what:
            found[f"{name} {kind_of(path)}"] += 1
    return found


def kind_of(path: str) -> str:
    """What kind of file it is."""
    name = path.rpartition("/")[2]
    for kind in (
        "spool.db-wal",
        "spool.db-journal",
        "spool.db",
        "session.json",
        "agent.log",
        "finished",
        "spill",
        "ring",
    ):
        if kind in name:
            return kind
    for kind in (".owner", "agent.lock", "join.lock", ".status", "closed", "run-", "socket:", "mlflow.db"):
        if kind in name:
            return kind.strip(".-:")
    return "artifacts" if "/artifacts" in path else "directory or other"


def _as_stored(run: MemoryRun) -> StoredRun:
    return StoredRun(run.run_id, run.status, run.deleted, run.end_time, run.tags, run.params)
