"""The spool: what is in it survives the agent, and after `sync` a power cut; it leaves only when MLflow has it.

Invariants
----------
1. One owner, by SQLite's exclusive locking mode. That also keeps the WAL index in memory, so the spool works on
   network file systems, where SQLite's shared index does not.
2. `ingest` and `settle` are one transaction each: rows, ring positions and counts move together or not at all. So a
   frame is counted once however often an agent is killed between the commit and the moving of the ring's tail.
3. Opening never raises for what the bytes are: a file that SQLite cannot read is set aside under another name, and a
   new one begins. What can be read of it is taken back at once, or at the next opening where a kill came in between.
4. Commits do not wait for the disk; `sync` does. Nothing is sent before it is there.

Each part has its own tables and its own file: `database` (the file, transactions), `waiting` (the blocks), `artifacts`
(those that an upload deals with), `dead_letters`, `counts` (the ledgers). Here is what moves between them, and the
tables `run` (state as JSON) and `ring` (positions taken over). `schema` has all tables, `salvage` reads damaged files.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from tailrace_agent.ipc.finished import SetAside, still_aside
from tailrace_agent.ipc.reasons import Reason
from tailrace_agent.ledger import Ledger, as_dropped
from tailrace_agent.spool.artifacts import WaitingArtifacts
from tailrace_agent.spool.blocks import DEVICE, NewBlock, Outcome, Tally
from tailrace_agent.spool.counts import Counts, count, count_keys, extremes, ledger, widen
from tailrace_agent.spool.database import Database, NotASpool, move_away, move_rest
from tailrace_agent.spool.dead_letters import DeadLetters
from tailrace_agent.spool.extremes import Extreme
from tailrace_agent.spool.salvage import take_back
from tailrace_agent.spool.waiting import Waiting

__all__ = ["Spool"]


class _Undone(Exception):
    """What was written is to be as if it had not been."""


class Spool:
    """One session's spool.

    Args:
        path: The database file. One that cannot be read is set aside.
        database: The file when it is open already.

    Attributes:
        set_aside: What became of unreadable predecessors that were taken back at this opening, the oldest first.
        database: The file and its transactions.
        waiting: The blocks that wait.
        artifacts: Those of them that are artifacts.
        letters: The dead letters.
        counts: The ledgers.

    Raises:
        sqlite3.OperationalError: The disk refuses (full, read-only), or another process owns the spool.
        OSError: Its directory cannot be read, or a damaged file not be given another name.

    Thread safety: every method from any thread, also those of the parts; one lock around each transaction.
    """

    def __init__(self, path: Path, database: Database | None = None) -> None:
        self.path = path
        self.set_aside: list[SetAside] = []
        self.database = self._open() if database is None else database
        self.waiting = Waiting(self.database)
        self.artifacts = WaitingArtifacts(self.database)
        self.letters = DeadLetters(self.database, self.waiting)
        self.counts = Counts(self.database)

    def ingest(
        self,
        blocks: Iterable[NewBlock],
        tallies: Iterable[Tally],
        runs: Iterable[tuple[int, bytes]] = (),
        rings: Iterable[tuple[str, int, int]] = (),
        *,
        aside: Sequence[NewBlock] = (),
        landed: Iterable[tuple[int, int]] = (),
        sync: bool = False,
    ) -> list[int]:
        """Takes over what rings held: blocks, counts, run states, ring positions.

        Args:
            blocks: What waits from now on.
            tallies: The counts.
            runs: Run states.
            rings: How far each ring is taken over.
            aside: Blocks that nothing sends.
            landed: Of these, `(run, id)` of those that go now: the first new blocks of their run take their ids.
            sync: Wait for the disk.

        Returns:
            The ids of what is aside now.
        """
        blocks, landed = list(blocks), sorted(landed)
        with self.database.transaction(sync) as db:
            gone = [(run, *self.waiting.remove(db, [id_])) for run, id_ in landed]
            ids = {run: iter([id_ for _, id_ in group]) for run, group in groupby(landed, itemgetter(0))}
            self.waiting.put(db, blocks, ids)
            put_aside = self.waiting.put_aside(db, aside)
            count(db, tallies)
            db.executemany("INSERT OR REPLACE INTO run VALUES(?, ?)", runs)
            db.executemany("INSERT OR REPLACE INTO ring VALUES(?, ?, ?)", rings)
            if landed and not sync:
                self.database.unsafe_from(min(id_ for _, id_ in landed))
        # After the commit: where it fails, the counts in memory still agree with the file.
        self.waiting.grow([*blocks, *aside])
        for run, size, entries in gone:
            self.waiting.shrink(run, DEVICE, size, entries)
        return put_aside

    def give_up_aside(self, block: int, reason: Reason) -> None:
        """Removes a block that nothing sends, and counts its entries as dropped."""
        with self.database.transaction() as db:
            row = db.execute("SELECT run, n, length(body) FROM block WHERE id = ?", (block,)).fetchone()
            self.waiting.remove(db, [block])
            count(db, [(row[0], "metric", as_dropped(reason), row[1])])
        self.waiting.shrink(row[0], DEVICE, row[2], row[1])

    def settle(self, *outcomes: Outcome) -> None:
        """Removes blocks that were dealt with and counts what became of them, in one transaction."""
        with self.database.transaction() as db:
            removed = [(each.run, each.kind, *self._settle(db, each)) for each in outcomes]
        # After the commit, as in `ingest`.
        for run, kind, size, entries in removed:
            self.waiting.shrink(run, kind, size, entries)

    def foresee(self, run: int, outcomes: Iterable[Outcome]) -> tuple[Ledger, dict[str, Extreme]]:
        """A run's ledger and extremes as `settle` is going to leave them, if nothing else comes; changes nothing."""
        found: list[tuple[Ledger, dict[str, Extreme]]] = []
        with contextlib.suppress(_Undone), self.database.transaction() as db:
            for each in outcomes:
                self._settle(db, each)
            found.append((ledger(db, run), extremes(db, run)))
            raise _Undone
        return found[0]

    def _settle(self, db: sqlite3.Connection, outcome: Outcome) -> tuple[int, int]:
        """The bytes and entries of the blocks that are removed."""
        run, kind = outcome.run, outcome.kind
        removed = self.waiting.remove(db, outcome.blocks)
        if kind == "artifact":
            self.artifacts.forget_failures(db, outcome.blocks)
        count(db, outcome.tallies)
        count_keys(db, [(run, key, n) for key, n in outcome.keys])
        widen(db, run, outcome.extremes)
        self.letters.put(db, run, kind, outcome.dead)
        return removed

    def sync(self, upto: int | None = None) -> None:
        """Waits until all that was committed is on the disk; with `upto`, only if that block may not be yet."""
        self.database.sync(upto)

    def runs(self) -> dict[int, bytes]:
        """Every run's state; no bytes for a run of which there are only blocks."""
        rows = self.database.rows(
            # Blocks alone: the state was in the part of a damaged spool that could not be read.
            "SELECT run, state FROM run UNION ALL "
            "SELECT DISTINCT run, x'' FROM block WHERE run NOT IN (SELECT run FROM run) ORDER BY 1"
        )
        return {row[0]: row[1] if isinstance(row[1], bytes) else b"" for row in rows}

    def save_run(self, run: int, state: bytes) -> None:
        """Writes a run's state."""
        with self.database.transaction() as db:
            db.execute("INSERT OR REPLACE INTO run VALUES(?, ?)", (run, state))

    def ring_positions(self) -> dict[str, tuple[int, int]]:
        """How far each ring was taken over."""
        return {row[0]: (row[1], row[2]) for row in self.database.rows("SELECT name, tail, spill FROM ring")}

    def forget_ring(self, name: str) -> None:
        """A ring is gone for good. Its name may come back: process ids do."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM ring WHERE name = ?", (name,))

    def close(self) -> None:
        """Closes the database; everything in it is on disk then."""
        self.database.close()

    def leak(self) -> None:
        """In a forked child: never let the parent's connection be closed there."""
        self.database.leak()

    def _open(self) -> Database:
        left = still_aside(self.path)
        if left:
            move_rest(self.path, Path(left[-1].path))
        try:
            database = Database(self.path)
        except NotASpool as error:
            left.append(SetAside(path=str(move_away(self.path)), reason=str(error)))
            database = Database(self.path)
        self.set_aside = take_back(left, database.connection, time.time())
        return database
