"""The spool's tables, and the proof that a file has them whole: whatever its bytes are, that is found out at once."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from pathlib import Path
from typing import Final
from zlib import crc32

from tailrace_agent.files.descriptors import open_kept

__all__ = ["body_sum", "connect", "make_room", "not_the_bytes", "sound"]

# AUTOINCREMENT: barriers and `sync` compare ids, so none is given a second time when its block has gone. No comments in
# the SQL: SQLite keeps the text of a table, and `_prove` compares it, also with what another version wrote.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS block(
    id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, kind TEXT NOT NULL,
    n INTEGER NOT NULL, first_ns INTEGER NOT NULL, body BLOB NOT NULL, minor INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS block_run ON block(run, kind, id);
CREATE TABLE IF NOT EXISTS run(run INTEGER PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tally(
    run INTEGER NOT NULL, kind TEXT NOT NULL, what TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY(run, kind, what)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivered_key(
    run INTEGER NOT NULL, key TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY(run, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS extreme(
    run INTEGER NOT NULL, key TEXT NOT NULL, n INTEGER NOT NULL, low REAL, high REAL,
    step INTEGER NOT NULL, timestamp INTEGER NOT NULL, PRIMARY KEY(run, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead(
    id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
    n INTEGER NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS upload_failure(
    block INTEGER PRIMARY KEY, counted INTEGER NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS beat(id INTEGER PRIMARY KEY, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS salvage(
    name TEXT PRIMARY KEY, entries INTEGER NOT NULL, lost INTEGER, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS block_sum(id INTEGER PRIMARY KEY, sum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS dead_sum(id INTEGER PRIMARY KEY, sum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ring(name TEXT PRIMARY KEY, tail INTEGER NOT NULL, spill INTEGER NOT NULL) WITHOUT ROWID;
"""
"""Tables are added, never changed: a newer tailrace opens what an older one has left, and the other way round."""
_SUM: Final = """
CREATE TEMP TRIGGER {table}_put AFTER INSERT ON main.{table} BEGIN
    INSERT OR REPLACE INTO {table}_sum VALUES(new.id, body_sum(new.body)); END;
CREATE TEMP TRIGGER {table}_changed AFTER UPDATE OF body ON main.{table} BEGIN
    INSERT OR REPLACE INTO {table}_sum VALUES(new.id, body_sum(new.body)); END;
CREATE TEMP TRIGGER {table}_gone AFTER DELETE ON main.{table} BEGIN
    DELETE FROM {table}_sum WHERE id = old.id; END;
"""
"""SQLite has no checksums: a flipped bit in a body would be another value. Of this connection alone, since an older
tailrace has no `body_sum`; what that has written has no sum, and is believed."""
_TABLES: Final = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
_READ_ALL: Final = (
    # The table and its index apart: either may be damaged by itself.
    "SELECT run, kind, sum(n), total(first_ns), total(length(body)) FROM block NOT INDEXED GROUP BY run, kind",
    "SELECT run, kind, count(*) FROM block INDEXED BY block_run WHERE run IS NOT NULL GROUP BY run, kind",
    "SELECT * FROM run",
    "SELECT * FROM tally",
    "SELECT count(key) FROM delivered_key",
    "SELECT count(key) FROM extreme",
    "SELECT count(length(body)) FROM dead",
    "SELECT * FROM ring",
    "SELECT * FROM upload_failure",
    "SELECT total(sum) FROM block_sum",
    "SELECT total(sum) FROM dead_sum",
)
_NO_NUMBERS: Final = (
    "SELECT 1 FROM block WHERE typeof(n) <> 'integer' OR typeof(first_ns) <> 'integer' OR n < 0",
    "SELECT 1 FROM tally WHERE typeof(n) <> 'integer'",
    "SELECT 1 FROM delivered_key WHERE typeof(n) <> 'integer'",
    "SELECT 1 FROM dead WHERE typeof(n) <> 'integer' OR typeof(at) NOT IN ('real', 'integer')",
    "SELECT 1 FROM ring WHERE typeof(tail) <> 'integer' OR typeof(spill) <> 'integer'",
)
"""One flipped bit in a row's header makes a text of a number, and no check of SQLite's minds."""
_TRY_TO_WRITE: Final = """
BEGIN IMMEDIATE;
INSERT INTO block(run, kind, n, first_ns, body, minor) VALUES(0, '', 0, 0, x'', 0);
INSERT OR REPLACE INTO run VALUES(0, x'');
ROLLBACK;
"""
_CHECK_BYTES: Final = 32 << 20
"""Up to this size, opening checks the whole file (0.1 s); beyond it, only that everything but the bodies is read."""
_LOG_PAGES: Final = 250
"""A megabyte of write-ahead log, and not SQLite's four: on a disk with little room it would take all of that."""
_FULL: Final = "database or disk is full"
_NOT_THE_BYTES: Final = (
    "database is locked",
    _FULL,
    "unable to open database file",
    "disk I/O error",
    "access permission denied",
    "locking protocol",
)
"""How SQLite's messages begin when another process or the disk is at fault (`sqlite_errorcode` is of Python 3.11)."""


def connect(path: Path, *, prove: bool = True) -> sqlite3.Connection:
    """Opens a spool's file, makes the tables that it lacks, and (with `prove`) proves that it can be read and written.

    Raises:
        sqlite3.DatabaseError: It is damaged, or the disk or another process is in the way: see `not_the_bytes`.
        UnicodeDecodeError: SQLite quotes damaged bytes in its messages.
    """
    # Made by SQLite, it would have the mode of the umask. What is in the way, SQLite reports, too.
    with contextlib.suppress(OSError):
        os.close(open_kept(path, os.O_RDWR | os.O_CREAT))
    # `isolation_level=None`: else Python begins transactions by itself, in which some of these settings cannot change.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        # First: only then does the index of the log stay in memory, and not in a file that owners would share.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        db.executescript(_SCHEMA)
        db.create_function("body_sum", 1, body_sum)
        # For the temporary triggers: else they may get a file in the temporary directory.
        db.execute("PRAGMA temp_store = MEMORY")
        for table in ("block", "dead"):
            db.executescript(_SUM.format(table=table))
        if prove:
            _prove(db, path)
    except BaseException:
        db.close()
        raise
    # What was damaged since, or is not read there (a dead letter's name): shown as it is.
    db.text_factory = lambda text: text.decode(errors="replace")
    return db


def body_sum(body: object) -> int:
    """The checksum of a body; of what is none, one that fits nothing."""
    return crc32(body) if isinstance(body, bytes) else -1


def sound(table: str) -> str:
    """SQL for the body of a row of `block` or `dead`: no bytes where it is not the one that was written."""
    known = f"SELECT sum FROM {table}_sum WHERE {table}_sum.id = {table}.id"  # noqa: S608
    return f"CASE WHEN typeof(body) <> 'blob' THEN x'' WHEN ({known}) <> body_sum(body) THEN x'' ELSE body END"


def make_room(db: sqlite3.Connection, error: BaseException) -> None:
    """Where the disk is full: has the write-ahead log, which may be larger than the rest, give its room back."""
    if isinstance(error, sqlite3.OperationalError) and str(error).startswith(_FULL):
        with contextlib.suppress(sqlite3.Error):  # there is not even room for that: the next one tries again
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def not_the_bytes(path: Path, message: str) -> bool:
    """Whether SQLite's message blames something else than the file's content."""
    if message.startswith("attempt to write a readonly database"):  # a damaged header gives the same message
        return not os.access(path, os.W_OK)
    return message.startswith(_NOT_THE_BYTES)


def _prove(db: sqlite3.Connection, path: Path) -> None:
    """Finds out now, and not in the middle of the work, what cannot be read or written."""
    if not _expected_tables() <= set(db.execute(_TABLES)):  # a column renamed by one flipped byte
        raise sqlite3.DatabaseError("the schema is damaged")
    for sql in _READ_ALL:
        db.execute(sql).fetchall()
    if any(db.execute(f"{sql} LIMIT 1").fetchone() for sql in _NO_NUMBERS):
        raise sqlite3.DatabaseError("a number is none")
    if path.stat().st_size <= _CHECK_BYTES:
        found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    db.executescript(_TRY_TO_WRITE)


@functools.cache
def _expected_tables() -> set[tuple[str | None, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(_SCHEMA)
        return set(db.execute(_TABLES))
