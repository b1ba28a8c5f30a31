"""What can still be read of a spool that was set aside, put into the one that has taken its place.

Rules
-----
1. The damaged file is only read. Row by row, from both ends of a table; where the middle is damaged, blocks are looked
   for in ever smaller ranges of ids, until no readable one is left or time is up.
2. One transaction, which also notes that it was done: a kill in between has the next opening do it again, and never
   twice. A file that has ended whoever read it is not tried for ever.
3. The ledger adds up afterwards: what was waiting by the counts and cannot be found is dropped, with the reason `LOST`;
   what is found and was not counted is accepted.
4. Nothing is guessed: a row whose values are not what they should be, or whose body has another checksum, is not taken.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from msgspec.structs import replace

from tailrace_agent.ipc.finished import SetAside, note_set_aside
from tailrace_agent.ipc.reasons import Reason
from tailrace_agent.ledger import as_dropped
from tailrace_agent.spool.blocks import DEVICE
from tailrace_agent.spool.counts import count, count_keys, widen
from tailrace_agent.spool.extremes import Extreme
from tailrace_agent.spool.schema import body_sum

__all__ = ["LOST", "Salvage", "salvage", "take_back"]

LOST: Final[Reason] = "lost with a damaged spool"
_PATIENCE: Final = 60.0  # seconds; nothing of the session is drained meanwhile
_MOST_BEGUN: Final = 3
"""Times that a file is read which has never been read to its end: reading it may be what ends the agent."""
_TRIES: Final = 20_000
"""Ranges of ids that are tried at most."""
_MOST: Final = 1000
"""Entries of a block at most; more is no count."""
_KINDS: Final = ("metric", "param", "tag", "artifact")
_OF_BLOCKS: Final = (*_KINDS, DEVICE)  # counted as metrics
_DAMAGED = (sqlite3.Error, UnicodeDecodeError, OverflowError)
Row = tuple[Any, ...]


class Salvage(NamedTuple):
    """What came of it: entries that were put on their way again, and how many are known to be lost (None: unknown)."""

    entries: int = 0
    lost: int | None = None


def take_back(left: Iterable[SetAside], db: sqlite3.Connection, now: float) -> list[SetAside]:
    """Takes back what was set aside and is in no spool yet, one file after the other, and notes it beside each.

    Args:
        left: The files, the oldest first: of tags the last value wins.
        db: The new spool, in no transaction.
        now: The time (epoch seconds), for the note that it was done.

    Returns:
        What became of each. The disk may refuse (full, say): then that file is still to be taken back.
    """
    left = list(left)
    for found in left:
        with contextlib.suppress(sqlite3.Error):  # `salvage` meets the same fault, and leaves the file for later
            _copy_done(Path(found.path), db)
    return [_take_back(found, db, now) for found in left]


def _take_back(found: SetAside, db: sqlite3.Connection, now: float) -> SetAside:
    outcome = replace(found, begun=0)
    if found.begun < _MOST_BEGUN:
        _note(replace(found, begun=found.begun + 1))
        try:
            outcome.entries, outcome.lost = salvage(Path(found.path), db, now)
        except (sqlite3.Error, OSError):
            outcome.begun = max(1, found.begun)  # the new spool's fault, and so not one of the times
    _note(outcome)
    return outcome


def _note(found: SetAside) -> None:
    with contextlib.suppress(OSError):  # the disk is full: without a note, it is looked at again
        note_set_aside(found)


def salvage(damaged: Path, db: sqlite3.Connection, now: float) -> Salvage:
    """Reads what can be read of one spool into another.

    Args:
        damaged: The file that was set aside; its write-ahead log lies beside it.
        db: The new spool, in no transaction.
        now: The time (epoch seconds), for the note that it was done.

    Raises:
        sqlite3.Error: The new spool cannot be written; nothing of it has been done.
    """
    found = db.execute("SELECT entries, lost FROM salvage WHERE name = ?", (damaged.name,)).fetchone()
    if found is not None:
        return Salvage(*found)
    waiting = _waiting(db)
    # The note beside the file, by which it is known to be done, must not outlast a power cut that this does not.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")
    try:
        with contextlib.closing(_Damaged(damaged)) as old:
            counted = _take(old, db)
        lost = _balance(db)
        done = Salvage(_waiting(db) - waiting, lost if counted else None)
        db.execute("INSERT INTO salvage VALUES(?, ?, ?, ?)", (damaged.name, done.entries, done.lost, now))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    finally:
        db.execute("PRAGMA synchronous = NORMAL")
    return done


class _Damaged:
    """A file that may raise at every row."""

    def __init__(self, path: Path) -> None:
        self._deadline = time.monotonic() + _PATIENCE
        self._db: sqlite3.Connection | None = None
        self.whole = True
        for how in ("mode=ro", "mode=ro&immutable=1"):  # the second where the log cannot be read: on NFS, say
            self.close()
            with contextlib.suppress(*_DAMAGED):
                self._db = sqlite3.connect(f"file:{quote(os.fsencode(path))}?{how}", uri=True, isolation_level=None)
                # Every 10,000 of SQLite's instructions; True ends the query, which then counts as damaged there.
                self._db.set_progress_handler(lambda: time.monotonic() > self._deadline, 10_000)
                self._db.execute("SELECT count(*) FROM block WHERE id = 0")  # opening reads nothing yet
                return

    def close(self) -> None:
        if self._db is not None:
            with contextlib.suppress(*_DAMAGED):
                self._db.close()

    def table(self, columns: str, table: str, keys: str) -> Iterator[Row]:
        """Rows of a table from its beginning to where it is damaged, and from its end to there.

        `whole` is False once damage was met.
        """
        seen: set[Row] = set()
        wide = len(keys.split(", "))
        self.whole = True
        for order in ("ASC", "DESC"):
            by = ", ".join(f"{key} {order}" for key in keys.split(", "))
            for row in self._read(f"SELECT {keys}, {columns} FROM {table} ORDER BY {by}"):  # noqa: S608
                if row[:wide] in seen:
                    break
                seen.add(row[:wide])
                yield row
            if self.whole:
                return

    def numbered(self, columns: str, table: str) -> Iterator[Row]:
        """Rows of a table with an `id`, in order, and whatever can be read between what is damaged."""
        last = self._last(table)
        ranges, tries = [(0, last)], 0
        while ranges and tries < _TRIES and time.monotonic() < self._deadline:
            low, high = ranges.pop()
            self.whole = True
            at = low - 1
            sql = f"SELECT id, {columns} FROM {table} WHERE id BETWEEN {low} AND {high} ORDER BY id"  # noqa: S608
            for row in self._read(sql):
                if not isinstance(row[0], int) or not at < row[0] <= high:
                    continue
                at = row[0]
                yield row
            if not self.whole and at < high:
                tries += 1
                low = at + 1
                middle = (low + high) // 2
                if low < high:
                    # The lower half is taken first, so that rows come in order.
                    ranges += [(middle + 1, high), (low, middle)]

    def _last(self, table: str) -> int:
        for sql in (
            f"SELECT max(id) FROM {table}",  # noqa: S608
            f"SELECT seq FROM sqlite_sequence WHERE name = '{table}'",  # noqa: S608
        ):
            for row in self._read(sql):
                if isinstance(row[0], int):
                    return min(row[0], 2**40)
        return 0

    def _read(self, sql: str) -> Iterator[Row]:
        if self._db is None:
            self.whole = False
            return
        try:
            yield from self._db.execute(sql)
        except _DAMAGED:
            self.whole = False


def _copy_done(damaged: Path, db: sqlite3.Connection) -> None:
    """Takes over which files were taken back into this one, before it was damaged itself: not to do it twice."""
    with contextlib.closing(_Damaged(damaged)) as old:
        rows = [row for row in old.table("entries, lost, at", "salvage", "name") if _is_done(row)]
    db.executemany("INSERT OR IGNORE INTO salvage VALUES(?, ?, ?, ?)", rows)


def _take(old: _Damaged, db: sqlite3.Connection) -> bool:
    """Copies what can be read; whether all counts were there, so that what is lost is known."""
    numbers = _all_of(int)
    tallies = [row for row in old.table("n", "tally", "run, kind, what") if _is_tally(row)]
    # `whole` is of the table that was read last.
    counted = old.whole and bool(tallies)
    count(db, tallies)
    db.executemany(
        "INSERT OR IGNORE INTO run VALUES(?, ?)",
        (row for row in old.table("state", "run", "run") if numbers(row[:1]) and isinstance(row[1], bytes)),
    )
    db.executemany(
        "INSERT OR IGNORE INTO ring VALUES(?, ?, ?)",
        (row for row in old.table("tail, spill", "ring", "name") if isinstance(row[0], str) and numbers(row[1:])),
    )
    count_keys(db, (row for row in old.table("n", "delivered_key", "run, key") if _is_key(row)))
    for row in old.table("n, low, high, step, timestamp", "extreme", "run, key"):
        if _is_key(row[:3]) and numbers(row[5:]) and all(isinstance(each, float | None) for each in row[3:5]):
            widen(db, row[0], {row[1]: Extreme(*row[2:])})
    dead_sums: dict[int, int] = dict(old.numbered("sum", "dead_sum"))
    sums: dict[int, int] = dict(old.numbered("sum", "block_sum"))
    db.executemany(
        "INSERT INTO dead(run, kind, key, n, body, reason, at) VALUES(?, ?, ?, ?, ?, ?, ?)",
        (row[1:] for row in old.numbered("run, kind, key, n, body, reason, at", "dead") if _is_dead(row, dead_sums)),
    )
    db.executemany(
        # In order, and with new ids; so `upload_failure`, which names the old ones, is not taken along.
        "INSERT INTO block(run, kind, n, first_ns, body, minor) VALUES(?, ?, ?, ?, ?, ?)",
        (row[1:] for row in old.numbered("run, kind, n, first_ns, body, minor", "block") if _is_block(row, sums)),
    )
    return counted


def _balance(db: sqlite3.Connection) -> int:
    """Makes the counts agree with what is there; how many entries are lost."""
    waiting = _sums(db, f"SELECT run, replace(kind, '{DEVICE}', 'metric') AS k, sum(n) FROM block GROUP BY run, k")  # noqa: S608
    dead = _sums(db, "SELECT run, kind, sum(n) FROM dead GROUP BY run, kind")
    tallied = _sums(
        db,
        "SELECT run, kind, sum(CASE WHEN what = 'accepted' THEN n WHEN what IN ('delivered', 'dead') "
        "OR what LIKE 'dropped:%' THEN -n ELSE 0 END) FROM tally GROUP BY run, kind",
    )
    tallied_dead = _sums(db, "SELECT run, kind, sum(n) FROM tally WHERE what = 'dead' GROUP BY run, kind")
    lost = 0
    for key in {*waiting, *dead, *tallied, *tallied_dead}:
        buried = dead.get(key, 0) - tallied_dead.get(key, 0)
        # What is dead, and was not counted so, waits no more.
        missing = tallied.get(key, 0) - buried - waiting.get(key, 0)
        rows = [("dead", buried), ("accepted", -missing) if missing < 0 else (as_dropped(LOST), missing)]
        count(db, [(*key, what, n) for what, n in rows if n])
        lost += max(0, missing)
    return lost


def _waiting(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(sum(n), 0) FROM block").fetchone()[0])


def _sums(db: sqlite3.Connection, sql: str) -> dict[tuple[int, str], int]:
    return {(row[0], row[1]): row[2] for row in db.execute(sql)}


def _all_of(type_: type) -> Callable[[Iterable[Any]], bool]:
    return lambda row: all(isinstance(value, type_) for value in row)


def _is_done(row: Row) -> bool:
    name, entries, lost, at = row
    counts = isinstance(entries, int) and (lost is None or isinstance(lost, int))
    return isinstance(name, str) and counts and isinstance(at, (int, float))


def _is_tally(row: Row) -> bool:
    run, kind, what, n = row
    return isinstance(run, int) and kind in _KINDS and isinstance(what, str) and isinstance(n, int) and n >= 0


def _is_key(row: Row) -> bool:
    run, key, n = row
    return isinstance(run, int) and isinstance(key, str) and isinstance(n, int) and n > 0


def _is_block(row: Row, sums: Mapping[int, int]) -> bool:
    id_, run, kind, n, first_ns, body, minor = row
    numbers = all(isinstance(value, int) for value in (run, n, first_ns, minor))
    return numbers and kind in _OF_BLOCKS and 0 < n <= _MOST and _is_sound(id_, body, sums)


def _is_dead(row: Row, sums: Mapping[int, int]) -> bool:
    id_, run, kind, key, n, body, reason, at = row
    texts = isinstance(key, str) and isinstance(reason, str) and _is_sound(id_, body, sums)
    numbers = isinstance(run, int) and isinstance(n, int) and isinstance(at, (int, float))
    return texts and numbers and kind in _KINDS and 0 < n <= _MOST


def _is_sound(id_: int, body: object, sums: Mapping[int, int]) -> bool:
    return isinstance(body, bytes) and sums.get(id_) in (None, body_sum(body))
