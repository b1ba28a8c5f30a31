"""The dead letters: what MLflow refuses, kept until somebody puts it back on the way or drops it.

Table: `dead`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

from tailrace_agent.ipc.records import Kind
from tailrace_agent.ledger import as_dropped
from tailrace_agent.spool.blocks import DEVICE, DeadLetter, NewBlock
from tailrace_agent.spool.counts import count
from tailrace_agent.spool.database import Database
from tailrace_agent.spool.schema import sound
from tailrace_agent.spool.waiting import Waiting

__all__ = ["DeadLetters"]


class DeadLetters:
    """A spool's dead letters.

    Args:
        database: Where they lie.
        waiting: Where they come from, and go back to.

    Thread safety: every method from any thread.
    """

    def __init__(self, database: Database, waiting: Waiting) -> None:
        self._database, self._waiting = database, waiting

    @property
    def number(self) -> int:
        """How many there are."""
        return int(self._database.rows("SELECT count(*) FROM dead")[0][0])

    def all(self, run: int | None = None) -> list[DeadLetter]:
        """Dead letters, oldest first."""
        sql = f"SELECT id, run, kind, key, n, {sound('dead')}, reason, at FROM dead ORDER BY id"  # noqa: S608
        found = (DeadLetter(*row) for row in self._database.rows(sql))
        return [letter for letter in found if letter.run == run or run is None]

    def put(self, db: sqlite3.Connection, run: int, kind: Kind, letters: Iterable[tuple[str, int, bytes, str]]) -> None:
        """Within a transaction of the caller's, who counts them: adds `(key, n, body, reason)`."""
        db.executemany(
            "INSERT INTO dead(run, kind, key, n, body, reason, at) VALUES(?, ?, ?, ?, ?, ?, ?)",
            [(run, kind, *letter, time.time()) for letter in letters],
        )

    def bury(self, run: int, reason: str) -> int:
        """Makes dead letters of everything that waits for a run that is gone; how many entries."""
        with self._database.transaction() as db:
            db.execute(
                # '*' for a name: a block holds many.
                "INSERT INTO dead(run, kind, key, n, body, reason, at) "  # noqa: S608
                f"SELECT run, kind, '*', n, {sound('block')}, ?, ? FROM block WHERE run = ? AND kind != ? ORDER BY id",
                (reason, time.time(), run, DEVICE),
            )
            removed = self._waiting.remove_all(db, run)
            count(db, [(run, kind, "dead", n) for kind, _, n in removed])
        for kind, size, n in removed:
            self._waiting.shrink(run, kind, size, n)
        return sum(n for _, _, n in removed)

    def revive(self, letters: Iterable[DeadLetter], blocks: Iterable[NewBlock]) -> None:
        """Puts dead letters back on the way as the given blocks."""
        letters, blocks = list(letters), list(blocks)
        with self._database.transaction(sync=True) as db:
            _delete(db, letters)
            # `accepted` stays, so that what leaves the dead ones is pending again.
            count(db, [(letter.run, letter.kind, "dead", -letter.n) for letter in letters])
            self._waiting.put(db, blocks)
        self._waiting.grow(blocks)

    def discard(self, letters: Iterable[DeadLetter]) -> None:
        """Deletes dead letters for good; the ledger calls them dropped by the user."""
        letters = list(letters)
        # Synced: the files of these letters are deleted next, which a power cut would not give back.
        with self._database.transaction(sync=True) as db:
            _delete(db, letters)
            for letter in letters:
                count(db, [(letter.run, letter.kind, "dead", -letter.n)])
                count(db, [(letter.run, letter.kind, as_dropped("discarded by the user"), letter.n)])


def _delete(db: sqlite3.Connection, letters: Iterable[DeadLetter]) -> None:
    db.executemany("DELETE FROM dead WHERE id = ?", [(letter.id,) for letter in letters])
