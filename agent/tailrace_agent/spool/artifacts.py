"""The artifacts that wait, and those among them that have failed: a block each, which an upload deals with by itself.

Table: `upload_failure` (how often an artifact that waits has failed by itself, and why).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Container, Sequence

from tailrace_agent.spool.blocks import Block, DeadLetter
from tailrace_agent.spool.database import Database
from tailrace_agent.spool.schema import sound
from tailrace_agent.spool.waiting import SELECT_BLOCK

__all__ = ["WaitingArtifacts"]


class WaitingArtifacts:
    """A spool's artifacts.

    Thread safety: every method from any thread.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def next(self, run: int, but: Container[int]) -> Block | None:
        """The oldest artifact of a run, some blocks aside."""
        with self._database.reading() as db:
            cursor = db.execute(f"{SELECT_BLOCK} WHERE run = ? AND kind = 'artifact' ORDER BY id", (run,))
            return next((Block(*row) for row in cursor if row[0] not in but), None)

    def failed(self, block: int, counted: int, reason: str) -> None:
        """An artifact did not get through, `counted` times by itself."""
        with self._database.transaction() as db:
            db.execute(
                # By way of `block`: one that was settled meanwhile gets no row, which nobody would delete.
                "INSERT OR REPLACE INTO upload_failure SELECT id, ?, ?, ? FROM block WHERE id = ?",
                (counted, reason, time.time(), block),
            )

    def failures(self) -> dict[int, int]:
        """How often each artifact has failed by itself."""
        return {row[0]: row[1] for row in self._database.rows("SELECT block, counted FROM upload_failure")}

    def send_again(self, block: int, body: bytes) -> None:
        """An artifact goes on with this record, as if it had never failed."""
        with self._database.transaction() as db:
            db.execute("UPDATE block SET body = ? WHERE id = ?", (body, block))
            self.forget_failures(db, [block])

    def forget_failures(self, db: sqlite3.Connection, blocks: Sequence[int]) -> None:
        """Within a transaction of the caller's: these artifacts wait no more, or as if they had never failed."""
        db.executemany("DELETE FROM upload_failure WHERE block = ?", [(id_,) for id_ in blocks])

    def all(self, *, failed: bool) -> list[DeadLetter]:
        """Artifacts in the form of dead letters: those that have failed, with the reason; or all of them."""
        rows = self._database.rows(
            f"SELECT id, run, kind, '', n, {sound('block')}, reason, at "  # noqa: S608
            "FROM block LEFT JOIN upload_failure ON block.id = block WHERE kind = 'artifact' ORDER BY id"
        )
        found = (DeadLetter(*row) for row in rows)
        return [it._replace(reason=it.reason or "", at=it.at or 0.0) for it in found if it.reason or not failed]
