"""The blocks that wait for MLflow, oldest first, and the bound of what may wait.

Table: `block` (encoded rows, at most `BLOCK_POINTS` points each). How many entries and bytes wait is also kept in
memory: `put`, `remove` and `remove_all` write within a transaction of the caller's, who calls `grow` or `shrink` once
it is committed.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from tailrace_agent.ipc.reasons import Reason
from tailrace_agent.ipc.records import Kind
from tailrace_agent.ledger import as_dropped
from tailrace_agent.spool.blocks import DEVICE, SYSTEM, Block, NewBlock, stored_kind
from tailrace_agent.spool.counts import count
from tailrace_agent.spool.database import Database
from tailrace_agent.spool.schema import sound

__all__ = ["SELECT_BLOCK", "Waiting"]

SELECT_BLOCK: Final = f"SELECT id, run, kind, n, first_ns, {sound('block')} FROM block"  # noqa: S608
"""The columns of a `Block`."""
_NONE: Final[Mapping[int, int]] = MappingProxyType({})
_PUT: Final = "INSERT INTO block(id, run, kind, minor, n, first_ns, body) VALUES(?, ?, ?, ?, ?, ?, ?)"


class Waiting:
    """What waits in a spool.

    Attributes:
        bytes: About how much the blocks hold.
        held: Ids of the blocks that are being sent.

    Thread safety: every method from any thread.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.held: set[int] = set()  # changed under the database's lock
        self._lock = threading.Lock()  # around the two below
        self.bytes = int(database.rows("SELECT total(length(body)) FROM block")[0][0])
        rows = database.rows("SELECT run, kind, sum(n) FROM block GROUP BY run, kind")
        self._entries: dict[Kind, dict[int, int]] = {}  # above zero
        for run, kind, entries in rows:
            self._change(run, kind, entries)

    # -- what is read ------------------------------------------------------------------------------------------------

    def oldest(self, run: int, kind: Kind, limit: int) -> list[Block]:
        """The oldest blocks of a run and kind that together hold at most `limit` entries (at least one block)."""
        with self._database.reading() as db:
            return _oldest(db, run, kind, limit)

    @contextlib.contextmanager
    def holding(self, run: int, kind: Kind, limit: int) -> Iterator[list[Block]]:
        """`oldest`, and while these blocks are being sent, `shed` leaves them alone."""
        with self._database.reading() as db:  # found and held at once: else `shed` might drop what is then delivered
            blocks = _oldest(db, run, kind, limit)
            ids = {block.id for block in blocks}
            self.held |= ids
        try:
            yield blocks
        finally:
            with self._database.reading():
                self.held -= ids

    def oldest_ns(self, run: int) -> int | None:
        """Time of the oldest waiting metrics call of a run, in nanoseconds since the epoch."""
        sql = "SELECT first_ns FROM block WHERE run = ? AND kind = 'metric' ORDER BY id LIMIT 1"
        rows = self._database.rows(sql, (run,))
        return rows[0][0] if rows else None

    def first(self, run: int, *, artifacts: bool = True) -> int | None:
        """Id of the oldest block of a run, perhaps artifacts aside; or None."""
        but = "" if artifacts else " AND kind != 'artifact'"
        found: int | None = self._database.rows(f"SELECT min(id) FROM block WHERE run = ?{but}", (run,))[0][0]  # noqa: S608
        return found

    def last_id(self) -> int:
        """The highest block id ever given."""
        rows = self._database.rows("SELECT seq FROM sqlite_sequence WHERE name = 'block'")
        return int(rows[0][0]) if rows else 0

    @property
    def points(self) -> int:
        """How many entries wait. From memory, as what follows."""
        with self._lock:
            return sum(sum(of_kind.values()) for of_kind in self._entries.values())

    @property
    def runs(self) -> set[int]:
        """Runs for which something waits."""
        with self._lock:
            return set().union(*self._entries.values())

    def runs_with(self, kind: Kind) -> set[int]:
        """Runs for which something of a kind waits."""
        with self._lock:
            return set(self._entries.get(kind, ()))

    def backlog(self, run: int) -> dict[Kind, int]:
        """Entries of a run that wait, by kind."""
        kinds: tuple[Kind, ...] = ("param", "tag", "metric", "artifact")
        return {kind: n for kind in kinds if (n := self._entries.get(kind, _NONE).get(run, 0))}

    def of_devices(self, run: int) -> int:
        """Entries of a run that devices have still to write."""
        with self._lock:
            return self._entries.get(DEVICE, _NONE).get(run, 0)

    # -- within a transaction, and after it --------------------------------------------------------------------------

    def put(
        self,
        db: sqlite3.Connection,
        blocks: Iterable[NewBlock],
        ids: Mapping[int, Iterator[int]] = MappingProxyType({}),
    ) -> None:
        """Adds blocks; those of the kind `SYSTEM` are the first to go at the bound.

        Args:
            db: In a transaction.
            blocks: The blocks.
            ids: Of blocks of each run that have just been removed: its first new ones of metrics take their place.
        """
        none: Iterator[int] = iter(())
        db.executemany(
            _PUT,
            [
                (next(ids.get(run, none), None) if kind == "metric" else None, run, *_stored(kind), n, at, body)
                for run, kind, n, at, body in blocks
            ],
        )

    def put_aside(self, db: sqlite3.Connection, blocks: Iterable[NewBlock]) -> list[int]:
        """Adds blocks that nothing sends; their ids."""
        return [
            db.execute(_PUT, (None, run, *_stored(kind), n, at, body)).lastrowid or 0
            for run, kind, n, at, body in blocks
        ]

    def aside(self) -> list[tuple[int, bytes]]:
        """Id and body of each block that nothing sends, oldest first."""
        sql = f"SELECT id, {sound('block')} FROM block WHERE kind = ? ORDER BY id"  # noqa: S608
        return [(row[0], row[1]) for row in self._database.rows(sql, (DEVICE,))]

    def remove(self, db: sqlite3.Connection, ids: Sequence[int]) -> tuple[int, int]:
        """Removes blocks; the bytes and entries of those that were still there."""
        size = entries = 0
        for id_ in ids:
            row = db.execute("SELECT length(body), n FROM block WHERE id = ?", (id_,)).fetchone()
            if row is not None:
                size, entries = size + row[0], entries + row[1]
        db.executemany("DELETE FROM block WHERE id = ?", [(id_,) for id_ in ids])
        return size, entries

    def remove_all(self, db: sqlite3.Connection, run: int) -> list[tuple[Kind, int, int]]:
        """Removes all blocks of a run but those that are aside; the bytes and entries of each kind."""
        sql = "SELECT kind, total(length(body)), sum(n) FROM block WHERE run = ? AND kind != ? GROUP BY kind"
        found = [(kind, int(size), n) for kind, size, n in db.execute(sql, (run, DEVICE)).fetchall()]
        db.execute("DELETE FROM block WHERE run = ? AND kind != ?", (run, DEVICE))
        return found

    def grow(self, blocks: Iterable[NewBlock]) -> None:
        """What was put is committed."""
        with self._lock:
            for run, kind, n, _, body in blocks:
                self.bytes += len(body)
                self._change(run, stored_kind(kind), n)

    def shrink(self, run: int, kind: Kind, size: int, entries: int) -> None:
        """What was removed is committed."""
        with self._lock:
            self.bytes -= size
            self._change(run, kind, -entries)

    def _change(self, run: int, kind: Kind, by: int) -> None:
        of_kind = self._entries.setdefault(kind, {})
        left = of_kind.get(run, 0) + by
        if left:
            of_kind[run] = left  # at once: `backlog` takes no lock
        else:
            of_kind.pop(run, None)

    # -- the bound ---------------------------------------------------------------------------------------------------

    def shed(self, max_bytes: int, reason: Reason) -> dict[int, int]:
        """Keeps the bound: drops the oldest system metrics, then the oldest metrics, until blocks fit into `max_bytes`.

        The oldest, since the steps before a crash are the ones that somebody will want. Params, tags and artifacts
        are never dropped, nor what is being sent. Returns the points dropped by run.
        """
        dropped: dict[int, int] = {}
        last, minor = 0, 1
        # Without its lock: one that is a moment old drops a block more or less.
        while self.bytes > max_bytes:
            rows = self._database.rows(
                "SELECT id, run, n, length(body) FROM block WHERE kind = 'metric' AND minor = ? AND id > ? "
                "ORDER BY id LIMIT 200",  # some at a time: deliveries get at the database in between
                (minor, last),
            )
            if not rows:
                if not minor:
                    break
                last = minor = 0
                continue
            excess, victims, last = self.bytes - max_bytes, [], rows[-1][0]
            for row in rows:
                if excess > 0 and row[0] not in self.held:
                    victims.append(row)
                    excess -= row[3]
            self._drop(victims, reason, dropped)
        return dropped

    def _drop(self, rows: Sequence[Sequence[int]], reason: Reason, dropped: dict[int, int]) -> None:
        gone = []
        with self._database.transaction() as db:
            for row in rows:
                id_, run, n, _ = row
                # Meanwhile it may be on its way, or delivered.
                if id_ not in self.held and db.execute("DELETE FROM block WHERE id = ?", (id_,)).rowcount:
                    count(db, [(run, "metric", as_dropped(reason), n)])
                    gone.append(row)
        for _, run, n, size in gone:
            dropped[run] = dropped.get(run, 0) + n
            self.shrink(run, "metric", size, n)


def _stored(kind: Kind) -> tuple[Kind, bool]:
    """The columns `kind` and `minor`."""
    return stored_kind(kind), kind == SYSTEM


def _oldest(db: sqlite3.Connection, run: int, kind: Kind, limit: int) -> list[Block]:
    cursor = db.execute(f"{SELECT_BLOCK} WHERE run = ? AND kind = ? ORDER BY id", (run, kind))
    found: list[Block] = []
    for row in cursor:
        limit -= row[3]
        if found and limit < 0:
            break
        found.append(Block(*row))
    return found
