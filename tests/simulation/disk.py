"""The spool's disk: commits that fail, kills around and inside of a commit, and power cuts.

SQLite is real, on a tmpfs. What a power cut leaves is what SQLite's durability permits: the files as they were at the
last commit that waited for the disk, or at the last checkpoint, and of what was written to the log since then any
prefix, with or without one sector of it that never reached the disk. (Sectors that arrive out of order look the same to
SQLite: its checksums chain, so it believes nothing behind the first one that is missing.)
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulation.faults import Killed, Points
from tailrace_agent.spool import schema as spool_schema

__all__ = ["Disk"]

_FULL = "database or disk is full"
_EIO = "disk I/O error"
_SECTOR = 512
_CHECKPOINT = 100_000
"""Bytes of the log after which a checkpoint is due: so few that there are some in a small run."""


class Disk:
    """The files of one session's spool.

    Attributes:
        synced: Called, with the open database, when everything in it is on the disk for good.
    """

    def __init__(self, path: Path, points: Points, *, power_cuts: bool) -> None:
        self._path, self._log = path, path.with_name(path.name + "-wal")
        self._points, self._power_cuts = points, power_cuts
        self._open: _Database | None = None
        self._durable = b"", b""
        self.synced: Callable[[sqlite3.Connection], None] = lambda _: None

    def connect(self, path: Path) -> _Database:
        """In place of `schema.connect`."""
        _strike(self._points, "open")
        real = spool_schema.connect(path)
        real.execute("PRAGMA wal_autocheckpoint = 0")  # they come at a moment that is known here
        self._open = _Database(real, self)
        self.committed(waited=True)  # what an agent finds when it opens the spool has reached the disk long ago
        return self._open

    def committed(self, *, waited: bool) -> None:
        """A transaction is over."""
        assert self._open is not None
        if checkpoint := self._log_size() > _CHECKPOINT:
            self._open.real.execute("PRAGMA wal_checkpoint(PASSIVE)")
        if self._power_cuts and (waited or checkpoint):
            self._durable = self._path.read_bytes(), self._log_bytes()
            self.synced(self._open.real)

    def kill(self, *, torn: float | None = None) -> None:
        """The agent is gone; its files stay as they are. `torn`: how much of its last write had been written."""
        if self._open is None:
            return
        database, self._open = self._open, None
        before = database.log_before
        main, log = self._path.read_bytes(), self._log_bytes()
        database.gone = True
        database.real.close()
        if torn is not None and before < len(log):
            log = log[: before + int(torn * (len(log) - before))]
        self._path.write_bytes(main)
        self._log.write_bytes(log)

    def cut_power(self, rng: random.Random) -> None:
        """What is left on the disk when the machine comes back."""
        assert self._power_cuts
        self.kill()
        main, old = self._durable
        new = self._log_bytes()
        first = _common(old, new)
        cut = rng.randint(first, len(new))
        log = bytearray(new[:cut] + old[cut:])
        if rng.random() < 0.5:
            at = rng.randint(first, max(first, len(log) - 1)) // _SECTOR * _SECTOR
            if at >= first:
                log[at : at + _SECTOR] = (old[at : at + _SECTOR] or bytes(_SECTOR))[: len(log) - at]
        self._path.write_bytes(main)
        self._log.write_bytes(log)

    def closed(self) -> None:
        """The agent has left in good order."""
        self._open = None

    def _log_bytes(self) -> bytes:
        return self._log.read_bytes() if self._log.exists() else b""

    def _log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0


def _common(old: bytes, new: bytes) -> int:
    """How much of two files is the same."""
    low, high = 0, min(len(old), len(new))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if old[:middle] == new[:middle] else (low, middle - 1)
    return low


class _Database:
    """A connection, as far as `Spool` uses one, with its points."""

    def __init__(self, real: sqlite3.Connection, disk: Disk) -> None:
        self.real, self._disk, self._points = real, disk, disk._points
        self.gone = False
        self.log_before = 0
        self._waits = False

    def execute(self, sql: str, args: Any = ()) -> sqlite3.Cursor:
        if self.gone:
            raise Killed("its database is gone")
        if sql == "COMMIT":
            return self._commit()
        if sql == "BEGIN IMMEDIATE":
            _strike(self._points, "begin")
        if sql.startswith("PRAGMA synchronous"):
            self._waits = sql.endswith("FULL")
        cursor = self.real.execute(sql, args)
        if sql.startswith("PRAGMA wal_checkpoint"):
            self._disk.committed(waited=True)  # SQLite has the log reach the disk, and then the database
        return cursor

    def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
        if self.gone:
            raise Killed("its database is gone")
        return self.real.executemany(sql, rows)

    @property
    def in_transaction(self) -> bool:
        return not self.gone and self.real.in_transaction

    def close(self) -> None:
        if not self.gone:
            self.gone = True
            self.real.close()
            self._disk.closed()

    def _commit(self) -> sqlite3.Cursor:
        fault = _strike(self._points, "commit")
        self.log_before = self._disk._log_size()
        cursor = self.real.execute("COMMIT")
        if fault == "torn":
            self._disk.kill(torn=0.5)
            self._points.kill("in the middle of a commit")
        self._disk.committed(waited=self._waits)
        self._points.reach("committed")
        return cursor


def _strike(points: Points, point: str) -> str | None:
    """Plays a disk that is full or broken; other faults are returned."""
    struck = points.reach(point)
    if struck is None:
        return None
    if struck[0] in ("full", "eio"):
        raise sqlite3.OperationalError(_FULL if struck[0] == "full" else _EIO)
    return struck[0]
