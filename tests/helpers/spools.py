"""Blocks put into a spool and looked for in it, and disks that fail in the middle of that."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from tailrace_agent.spool.blocks import SYSTEM, NewBlock
from tailrace_agent.spool.store import Spool

__all__ = ["KINDS", "FailingConnection", "block", "failing", "failing_at", "ids", "put", "snapshot", "table"]

KINDS = ("metric", "param", "tag", "artifact")


def block(n: int = 3, *, run: int = 1, kind: str = "metric", size: int = 100, at: int = 5) -> NewBlock:
    return run, kind, n, at, bytes(size)


def put(spool: Spool, *blocks: NewBlock, **more: Any) -> None:
    kinds = [(run, "metric" if kind == SYSTEM else kind, n) for run, kind, n, _, _ in blocks]
    spool.ingest(blocks, [(run, kind, "accepted", n) for run, kind, n in kinds], **more)


def ids(spool: Spool, run: int = 1, kind: str = "metric") -> list[int]:
    return [found.id for found in spool.waiting.oldest(run, kind, 10**9)]


class FailingConnection:
    """A connection of which one call fails."""

    def __init__(self, db: sqlite3.Connection, fails: Callable[[str], bool]) -> None:
        self._db, self._fails = db, fails

    def _check(self, sql: str) -> None:
        if self._fails(sql):
            raise sqlite3.OperationalError("disk I/O error")

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._check(sql)
        return self._db.execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._check(sql)
        return self._db.executemany(sql, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def failing(spool: Spool, fails: Callable[[str], bool]) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(spool.database, "connection", FailingConnection(spool.database.connection, fails))
    return patch


def failing_at(spool: Spool, call: int) -> Any:
    calls = iter(range(10_000))
    return failing(spool, lambda _: next(calls) == call)


def table(spool: Spool) -> dict[tuple[int, str], int]:
    """Entries that wait, by run and kind, as the file has them."""
    rows = spool.database.rows("SELECT run, kind, sum(n) FROM block GROUP BY run, kind")
    return {(row[0], row[1]): row[2] for row in rows}


def snapshot(spool: Spool) -> object:
    """All that a spool holds, in the file and in memory."""
    tables, waiting = ("block", "run", "tally", "delivered_key", "dead", "ring"), spool.waiting
    rows = [spool.database.rows(f"SELECT * FROM {name}") for name in tables]
    return rows, waiting.bytes, waiting.points, waiting.backlog(1)
