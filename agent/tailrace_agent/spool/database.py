"""The spool's file and the one connection to it: whose it is, what a transaction is, and when it is on the disk.

Commits do not wait for the disk (WAL, `synchronous=NORMAL`); a transaction with `sync` does, and takes all earlier ones
along.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tailrace_agent.spool.schema import connect, make_room, not_the_bytes

__all__ = ["Database", "NotASpool", "move_away", "move_rest"]


class NotASpool(sqlite3.DatabaseError):
    """The file is there and may be read, and its bytes are not those of a spool."""


class Database:
    """One spool's database.

    Args:
        path: The file; made where there is none.
        prove: Whether to find out at once that all of it can be read and written.

    Attributes:
        connection: For `transaction` and `reading` alone, which hand it out.

    Raises:
        NotASpool: For what the bytes are.
        sqlite3.OperationalError: The disk refuses (full, read-only), or another process owns the file.

    Thread safety: every method from any thread; one lock around each transaction.
    """

    def __init__(self, path: Path, *, prove: bool = True) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._safe = 0  # the highest block id that is known to be on the disk
        self._commits, self._synced = 0, -1  # how many there were, and up to which they are known to be on the disk
        try:
            self.connection = connect(path, prove=prove)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite quotes damaged bytes in its messages
            if not_the_bytes(path, str(error)):
                raise
            raise NotASpool(str(error)) from error

    @contextlib.contextmanager
    def transaction(self, sync: bool = False) -> Iterator[sqlite3.Connection]:
        """What is done with the connection is done as a whole or not at all; with `sync`, it is on the disk then."""
        with self._lock, self._transaction(sync) as db:
            yield db

    @contextlib.contextmanager
    def _transaction(self, sync: bool) -> Iterator[sqlite3.Connection]:
        db = self.connection
        if sync:
            # SQLite changes it only outside of a transaction.
            db.execute("PRAGMA synchronous = FULL")
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            if sync:  # a transaction that writes nothing would not reach the disk, and take nothing along
                db.execute("INSERT OR REPLACE INTO beat VALUES(1, ?)", (time.time(),))
            db.execute("COMMIT")
            self._commits += 1
            if sync:
                self._synced = self._commits
                self._safe = db.execute("SELECT max(id) FROM block").fetchone()[0] or 0
        except BaseException as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            make_room(db, error)
            raise
        finally:
            if sync:
                db.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Nothing is written meanwhile."""
        with self._lock:
            yield self.connection

    def rows(self, sql: str, args: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All that a query finds."""
        with self._lock:
            return self.connection.execute(sql, args).fetchall()

    def sync(self, upto: int | None = None) -> None:
        """Waits until all that was committed is on the disk; with `upto`, only if that block may not be yet."""
        # Without the lock: whatever value it had is right for good, and one too low costs a sync that was not needed.
        if upto is not None and upto <= self._safe:
            return
        wanted = self._commits
        with self._lock:
            # Whoever had the lock before may have waited for the disk after our last commit: one wait for all of them.
            if self._synced < wanted:
                with self._transaction(sync=True):
                    pass

    def unsafe_from(self, block: int) -> None:
        """Within a transaction: a block of this id, perhaps a lower one than others on the disk, is new."""
        self._safe = min(self._safe, block - 1)

    def close(self) -> None:
        """Closes the database; everything in it is on disk then."""
        with self._lock:
            self.connection.close()

    def leak(self) -> None:
        """In a forked child: never let this connection be closed there, which would checkpoint the parent's WAL."""
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.connection))


def move_away(path: Path) -> Path:
    """Gives a file that cannot be read, and its log, another name; which."""
    target = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    # Before its log: a log alone shows that a kill came in between, and a file alone would be opened without it.
    path.rename(target)
    move_rest(path, target)
    return target


def move_rest(path: Path, target: Path) -> None:
    """Has the log follow a file that was moved away, where it has stayed behind."""
    for suffix in ("-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists() and not path.exists():
            part.rename(target.with_name(target.name + suffix))
