"""The counts: a run's ledger, the rows delivered by metric, and the smallest and largest value of each.

Tables: `tally` (the ledger), `delivered_key` (rows delivered by metric key), `extreme` (their smallest and largest
values). The functions read and write within a transaction of their caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from tailrace_agent.ledger import Ledger
from tailrace_agent.spool.blocks import Tally
from tailrace_agent.spool.database import Database
from tailrace_agent.spool.extremes import Extreme

__all__ = ["Counts", "count", "count_keys", "extremes", "ledger", "widen"]

_COUNT: Final = "INSERT INTO tally VALUES(?, ?, ?, ?) ON CONFLICT(run, kind, what) DO UPDATE SET n = n + excluded.n"
_COUNT_KEY: Final = "INSERT INTO delivered_key VALUES(?, ?, ?) ON CONFLICT(run, key) DO UPDATE SET n = n + excluded.n"
# SQLite's min and max of two values give NULL where one is: a metric that was NaN alone has no extremes yet.
_WIDEN: Final = """
INSERT INTO extreme VALUES(?, ?, ?, ?, ?, ?, ?) ON CONFLICT(run, key) DO UPDATE SET
    n = n + excluded.n,
    low = min(coalesce(low, excluded.low), coalesce(excluded.low, low)),
    high = max(coalesce(high, excluded.high), coalesce(excluded.high, high)),
    step = max(step, excluded.step),
    timestamp = CASE WHEN (excluded.step, excluded.timestamp) > (step, timestamp)
        THEN excluded.timestamp ELSE timestamp END
"""


def count(db: sqlite3.Connection, tallies: Iterable[Tally]) -> None:
    """Adds to ledgers."""
    db.executemany(_COUNT, tallies)


def count_keys(db: sqlite3.Connection, rows: Iterable[tuple[int, str, int]]) -> None:
    """Adds `(run, key, n)` to the rows delivered by metric key."""
    db.executemany(_COUNT_KEY, rows)


def widen(db: sqlite3.Connection, run: int, extremes: Mapping[str, Extreme]) -> None:
    """Takes more values into a run's extremes."""
    db.executemany(_WIDEN, [(run, key, *extreme) for key, extreme in extremes.items()])


def ledger(db: sqlite3.Connection, run: int) -> Ledger:
    """A run's ledger."""
    rows = db.execute("SELECT kind, what, n FROM tally WHERE run = ?", (run,)).fetchall()
    return Ledger.from_rows((row[0], row[1], row[2]) for row in rows)


def extremes(db: sqlite3.Connection, run: int) -> dict[str, Extreme]:
    """Of each metric of which all delivered rows are in them; not of what an older tailrace has delivered."""
    rows = db.execute(
        # By `n`, too: an older tailrace counts what it delivers, and knows of no extremes.
        "SELECT key, n, low, high, step, timestamp FROM extreme JOIN delivered_key USING(run, key, n) WHERE run = ?",
        (run,),
    ).fetchall()
    return {row[0]: Extreme(*row[1:]) for row in rows}


class Counts:
    """A spool's counts.

    Thread safety: every method from any thread.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def ledger(self, run: int) -> Ledger:
        """A run's ledger."""
        with self._database.reading() as db:
            return ledger(db, run)

    def delivered_keys(self, run: int) -> dict[str, int]:
        """Distinct rows delivered by metric key."""
        return {row[0]: row[1] for row in self._database.rows("SELECT key, n FROM delivered_key WHERE run = ?", (run,))}

    def extremes(self, run: int) -> dict[str, Extreme]:
        """Of each metric of which all delivered rows are in them; not of what an older tailrace has delivered."""
        with self._database.reading() as db:
            return extremes(db, run)
