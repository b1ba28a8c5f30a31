"""The spool: what is in it survives the agent, and after `sync` a power cut; it leaves only when MLflow has it.

Invariants
----------
1. One owner, by SQLite's exclusive locking mode. That also keeps the WAL index in memory, so the spool works on
   network file systems, where SQLite's shared index does not.
2. `ingest` and `settle` are one transaction each: rows, ring positions and counts move together or not at all. So a
   frame is counted once however often an agent is killed between the commit and the moving of the ring's tail.
3. Opening never raises for what the bytes are: a file that SQLite cannot read is set aside under another name
   (`set_aside`), and a new one begins.
4. Commits do not wait for the disk (WAL, `synchronous=NORMAL`); `sync` does. Nothing is sent before it is there.

Tables: `block` (encoded rows waiting, at most `BLOCK_POINTS` points each), `run` (state as JSON), `tally` (the
ledger), `delivered_key` (rows delivered by metric key), `extreme` (their smallest and largest values), `dead` (dead
letters), `ring` (positions taken over), `upload_failure` (artifacts that wait and have failed), `salvage` (old spools).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from tailrace_agent.ipc.finished import SetAside
from tailrace_agent.ipc.reasons import Reason
from tailrace_agent.ipc.records import Kind
from tailrace_agent.ledger import Ledger, as_dropped
from tailrace_agent.spool.extremes import Extreme
from tailrace_agent.spool.salvage import take_back
from tailrace_agent.spool.schema import connect, make_room, not_the_bytes, sound

__all__ = ["BLOCK_POINTS", "SYSTEM", "Block", "DeadLetter", "Outcome", "Spool"]

BLOCK_POINTS: Final = 250
"""Points in a block. Four fill a request, so a request is at least three quarters full while there is a backlog."""

_BLOCK: Final = f"SELECT id, run, kind, n, first_ns, {sound('block')} FROM block"  # noqa: S608
_COUNT: Final = "INSERT INTO tally VALUES(?, ?, ?, ?) ON CONFLICT(run, kind, what) DO UPDATE SET n = n + excluded.n"
_COUNT_KEY: Final = "INSERT INTO delivered_key VALUES(?, ?, ?) ON CONFLICT(run, key) DO UPDATE SET n = n + excluded.n"
_WIDEN: Final = """
INSERT INTO extreme VALUES(?, ?, ?, ?, ?, ?, ?) ON CONFLICT(run, key) DO UPDATE SET
    n = n + excluded.n,
    low = min(coalesce(low, excluded.low), coalesce(excluded.low, low)),
    high = max(coalesce(high, excluded.high), coalesce(excluded.high, high)),
    step = max(step, excluded.step),
    timestamp = CASE WHEN (excluded.step, excluded.timestamp) > (step, timestamp)
        THEN excluded.timestamp ELSE timestamp END
"""

SYSTEM: Final = "system"
"""The kind of block that holds system metrics."""

Tally = tuple[int, Kind, str, int]
"""`(run, kind, what, n)`, `what` as in `Ledger.from_rows`."""


def _stored(kind: Kind) -> Kind:
    return "metric" if kind == SYSTEM else kind


class Block(NamedTuple):
    """Encoded rows of one kind and run that wait. `n` counts points (or params, tags, artifacts).

    `body` is empty where the disk gives back another one than was written.
    """

    id: int
    run: int
    kind: Kind
    n: int
    first_ns: int
    body: bytes


class DeadLetter(NamedTuple):
    """What MLflow refuses, as it was, with the reason: one entry as a rule, a block of `n` when its run is gone.

    `body` is what a block's body is, so that it can be put back on the way as it stands.
    """

    id: int
    run: int
    kind: Kind
    key: str
    n: int
    body: bytes
    reason: str
    at: float


class Outcome(NamedTuple):
    """What became of some blocks: they leave, and the counts say how.

    `late`: after MLflow was told the run's end. `accepted`: entries that have come to light only now, such as the files
    of a directory that count by themselves.
    """

    run: int
    kind: Kind
    blocks: Sequence[int]
    delivered: int
    accepted: int = 0
    merged: int = 0
    late: bool = False
    requests: int = 0
    keys: Sequence[tuple[str, int]] = ()
    extremes: Mapping[str, Extreme] = MappingProxyType({})
    dead: Sequence[tuple[str, int, bytes, str]] = ()
    dropped: Sequence[tuple[Reason, int]] = ()


class Spool:
    """One session's spool.

    Args:
        path: The database file.

    Attributes:
        set_aside: What became of an unreadable predecessor, or None.
        bytes: About how much the waiting blocks hold.

    Raises:
        sqlite3.OperationalError: The disk refuses (full, read-only), or another process owns the spool.

    Thread safety: every method from any thread; one lock around each transaction.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: SetAside | None = None
        self._held: set[int] = set()
        self._safe = 0
        self._lock = threading.Lock()
        try:
            self._db = self._connect()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite quotes damaged bytes in its messages
            if not_the_bytes(path, str(error)):
                raise
            moved = self._move_away()
            self._db = self._connect()
            self.set_aside = take_back(moved, self._db, str(error), time.time())
        self.bytes = int(self._all("SELECT total(length(body)) FROM block")[0][0])
        rows = self._all("SELECT run, kind, sum(n) FROM block GROUP BY run, kind")
        self._waiting: dict[tuple[int, Kind], int] = {(row[0], row[1]): row[2] for row in rows}

    # -- what the agent's threads do ---------------------------------------------------------------------------------

    def ingest(
        self,
        blocks: Iterable[tuple[int, Kind, int, int, bytes]],
        tallies: Iterable[Tally],
        runs: Iterable[tuple[int, bytes]] = (),
        rings: Iterable[tuple[str, int, int]] = (),
        *,
        sync: bool = False,
    ) -> None:
        """Takes over what rings held: `(run, kind, n, first_ns, body)` blocks, counts, run states, ring positions.

        Blocks of the kind `system` are metrics, too; they are the first to go at the bound.
        """
        rows = [(run, _stored(kind), n, at, body, kind == SYSTEM) for run, kind, n, at, body in blocks]
        with self._transaction(sync):
            self._db.executemany(
                "INSERT INTO block(run, kind, n, first_ns, body, minor) VALUES(?, ?, ?, ?, ?, ?)", rows
            )
            self._db.executemany(_COUNT, tallies)
            self._db.executemany("INSERT OR REPLACE INTO run VALUES(?, ?)", runs)
            self._db.executemany("INSERT OR REPLACE INTO ring VALUES(?, ?, ?)", rings)
        self._grow(row[:5] for row in rows)

    def sync(self, upto: int | None = None) -> None:
        """Waits until all that was committed is on the disk; with `upto`, only if that block may not be yet."""
        if upto is None or upto > self._safe:
            with self._transaction(sync=True):
                pass

    def waiting(self, run: int, kind: Kind, limit: int) -> list[Block]:
        """The oldest blocks of a run and kind that together hold at most `limit` entries (at least one block)."""
        with self._lock:
            return self._oldest(run, kind, limit)

    def next_artifact(self, run: int, but: Container[int]) -> Block | None:
        """The oldest artifact of a run that waits, some blocks aside."""
        with self._lock:
            cursor = self._db.execute(f"{_BLOCK} WHERE run = ? AND kind = 'artifact' ORDER BY id", (run,))
            return next((Block(*row) for row in cursor if row[0] not in but), None)

    @contextlib.contextmanager
    def holding(self, run: int, kind: Kind, limit: int) -> Iterator[list[Block]]:
        """`waiting`, and while these blocks are being sent, `shed` leaves them alone."""
        with self._lock:  # found and held at once: else `shed` might drop, and count, what is then delivered
            blocks = self._oldest(run, kind, limit)
            ids = {block.id for block in blocks}
            self._held |= ids
        try:
            yield blocks
        finally:
            with self._lock:
                self._held -= ids

    def settle(self, outcome: Outcome) -> None:
        """Removes blocks that were dealt with and counts what became of them, in one transaction."""
        run, kind = outcome.run, outcome.kind
        tallies = [
            (run, kind, "accepted", outcome.accepted),
            (run, kind, "delivered", outcome.delivered),
            (run, kind, "merged", outcome.merged),
            (run, kind, "late", outcome.delivered if outcome.late else 0),
            (run, kind, "requests", outcome.requests),
            (run, kind, "dead", sum(n for _, n, _, _ in outcome.dead)),
            *((run, kind, as_dropped(reason), n) for reason, n in outcome.dropped),
        ]
        with self._transaction():
            size, points = self._measure(outcome.blocks)
            self._db.executemany("DELETE FROM block WHERE id = ?", [(id_,) for id_ in outcome.blocks])
            if kind == "artifact":
                self._db.executemany("DELETE FROM upload_failure WHERE block = ?", [(id_,) for id_ in outcome.blocks])
            self._db.executemany(_COUNT, [tally for tally in tallies if tally[3]])
            self._db.executemany(_COUNT_KEY, [(run, key, n) for key, n in outcome.keys])
            self._db.executemany(_WIDEN, [(run, key, *extreme) for key, extreme in outcome.extremes.items()])
            self._db.executemany(
                "INSERT INTO dead(run, kind, key, n, body, reason, at) VALUES(?, ?, ?, ?, ?, ?, ?)",
                [(run, kind, *letter, time.time()) for letter in outcome.dead],
            )
        self._shrink(run, kind, size, points)

    def upload_failed(self, block: int, counted: int, reason: str) -> None:
        """An artifact did not get through, `counted` times by itself."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO upload_failure SELECT id, ?, ?, ? FROM block WHERE id = ?",
                (counted, reason, time.time(), block),
            )

    def send_again(self, block: int, body: bytes) -> None:
        """An artifact that waits: goes on with this record, as if it had never failed."""
        with self._transaction():
            self._db.execute("UPDATE block SET body = ? WHERE id = ?", (body, block))
            self._db.execute("DELETE FROM upload_failure WHERE block = ?", (block,))

    def save_run(self, run: int, state: bytes) -> None:
        """Writes a run's state."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO run VALUES(?, ?)", (run, state))

    def forget_ring(self, name: str) -> None:
        """A ring is gone for good. Its name may come back: process ids do."""
        with self._transaction():
            self._db.execute("DELETE FROM ring WHERE name = ?", (name,))

    # -- what is read ------------------------------------------------------------------------------------------------

    def runs(self) -> dict[int, bytes]:
        """Every run's state; no bytes for a run of which there are only blocks."""
        rows = self._all(
            "SELECT run, state FROM run UNION ALL "
            "SELECT DISTINCT run, x'' FROM block WHERE run NOT IN (SELECT run FROM run) ORDER BY 1"
        )
        return {row[0]: row[1] if isinstance(row[1], bytes) else b"" for row in rows}

    def ring_positions(self) -> dict[str, tuple[int, int]]:
        """How far each ring was taken over."""
        return {row[0]: (row[1], row[2]) for row in self._all("SELECT name, tail, spill FROM ring")}

    def upload_failures(self) -> dict[int, int]:
        """How often each artifact that waits has failed by itself."""
        return {row[0]: row[1] for row in self._all("SELECT block, counted FROM upload_failure")}

    def ledger(self, run: int) -> Ledger:
        """A run's ledger."""
        rows = self._all("SELECT kind, what, n FROM tally WHERE run = ?", (run,))
        return Ledger.from_rows((row[0], row[1], row[2]) for row in rows)

    def delivered_keys(self, run: int) -> dict[str, int]:
        """Distinct rows delivered by metric key."""
        return {row[0]: row[1] for row in self._all("SELECT key, n FROM delivered_key WHERE run = ?", (run,))}

    def extremes(self, run: int) -> dict[str, Extreme]:
        """Of each metric of which all delivered rows are in them; not of what an older tailrace has delivered."""
        rows = self._all(
            "SELECT key, n, low, high, step, timestamp FROM extreme JOIN delivered_key USING(run, key, n) "
            "WHERE run = ?",
            (run,),
        )
        return {row[0]: Extreme(*row[1:]) for row in rows}

    @property
    def points(self) -> int:
        """How many entries wait."""
        return sum(self._waiting.values())

    @property
    def waiting_runs(self) -> set[int]:
        """Runs for which something waits. From memory."""
        return {run for (run, _), n in list(self._waiting.items()) if n}

    def backlog(self, run: int) -> dict[Kind, int]:
        """Entries of a run that wait, by kind. From memory."""
        kinds: tuple[Kind, ...] = ("param", "tag", "metric", "artifact")
        return {kind: n for kind in kinds if (n := self._waiting.get((run, kind), 0))}

    def oldest_ns(self, run: int) -> int | None:
        """Time of the oldest waiting metrics call of a run, in nanoseconds since the epoch."""
        rows = self._all("SELECT first_ns FROM block WHERE run = ? AND kind = 'metric' ORDER BY id LIMIT 1", (run,))
        return rows[0][0] if rows else None

    def first_waiting(self, run: int, *, artifacts: bool = True) -> int | None:
        """Id of the oldest block of a run, perhaps artifacts aside; or None."""
        but = "" if artifacts else " AND kind != 'artifact'"
        found: int | None = self._all(f"SELECT min(id) FROM block WHERE run = ?{but}", (run,))[0][0]  # noqa: S608
        return found

    def last_id(self) -> int:
        """The highest block id ever given."""
        rows = self._all("SELECT seq FROM sqlite_sequence WHERE name = 'block'")
        return int(rows[0][0]) if rows else 0

    @property
    def dead(self) -> int:
        """How many dead letters there are."""
        return int(self._all("SELECT count(*) FROM dead")[0][0])

    def dead_letters(self, run: int | None = None) -> list[DeadLetter]:
        """Dead letters, oldest first."""
        rows = self._all(f"SELECT id, run, kind, key, n, {sound('dead')}, reason, at FROM dead ORDER BY id")  # noqa: S608
        return [letter for row in rows if (letter := DeadLetter(*row)).run == run or run is None]

    def pending_artifacts(self, *, failed: bool) -> list[DeadLetter]:
        """Artifacts that wait, in the form of dead letters: those that have failed, with the reason; or all of them."""
        rows = self._all(
            f"SELECT id, run, kind, '', n, {sound('block')}, reason, at "  # noqa: S608
            "FROM block LEFT JOIN upload_failure ON block.id = block WHERE kind = 'artifact' ORDER BY id"
        )
        found = (DeadLetter(*row) for row in rows)
        return [it._replace(reason=it.reason or "", at=it.at or 0.0) for it in found if it.reason or not failed]

    # -- policy and care ---------------------------------------------------------------------------------------------

    def shed(self, max_bytes: int, reason: Reason) -> dict[int, int]:
        """Keeps the bound: drops the oldest system metrics, then the oldest metrics, until blocks fit into `max_bytes`.

        The oldest, since the steps before a crash are the ones that somebody will want. Params, tags and artifacts
        are never dropped, nor what is being sent. Returns the points dropped by run.
        """
        dropped: dict[int, int] = {}
        last, minor = 0, 1
        while self.bytes > max_bytes:
            rows = self._all(
                "SELECT id, run, n, length(body) FROM block WHERE kind = 'metric' AND minor = ? AND id > ? "
                "ORDER BY id LIMIT 200",
                (minor, last),
            )
            if not rows:
                if not minor:
                    break
                last = minor = 0
                continue
            excess, victims, last = self.bytes - max_bytes, [], rows[-1][0]
            for row in rows:
                if excess > 0 and row[0] not in self._held:
                    victims.append(row)
                    excess -= row[3]
            self._drop(victims, reason, dropped)
        return dropped

    def revive(self, letters: Iterable[DeadLetter], blocks: Iterable[tuple[int, Kind, int, int, bytes]]) -> None:
        """Puts dead letters back on the way as the given blocks."""
        letters, blocks = list(letters), list(blocks)
        with self._transaction(sync=True):
            self._db.executemany("DELETE FROM dead WHERE id = ?", [(letter.id,) for letter in letters])
            self._db.executemany(_COUNT, [(letter.run, letter.kind, "dead", -letter.n) for letter in letters])
            self._db.executemany("INSERT INTO block(run, kind, n, first_ns, body) VALUES(?, ?, ?, ?, ?)", blocks)
        self._grow(blocks)

    def bury(self, run: int, reason: str) -> int:
        """Makes dead letters of everything that waits for a run that is gone; how many entries."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO dead(run, kind, key, n, body, reason, at) "  # noqa: S608
                f"SELECT run, kind, '*', n, {sound('block')}, ?, ? FROM block WHERE run = ? ORDER BY id",
                (reason, time.time(), run),
            )
            self._db.execute(
                "INSERT INTO tally SELECT run, kind, 'dead', sum(n) FROM block WHERE run = ? GROUP BY kind "
                "ON CONFLICT(run, kind, what) DO UPDATE SET n = n + excluded.n",
                (run,),
            )
            rows = self._db.execute(
                "SELECT kind, total(length(body)), sum(n) FROM block WHERE run = ? GROUP BY kind", (run,)
            ).fetchall()
            self._db.execute("DELETE FROM block WHERE run = ?", (run,))
        for kind, size, n in rows:
            self._shrink(run, kind, int(size), n)
        return sum(n for _, _, n in rows)

    def discard_dead(self, letters: Iterable[DeadLetter]) -> None:
        """Deletes dead letters for good; the ledger calls them dropped by the user."""
        letters = list(letters)
        with self._transaction(sync=True):
            self._db.executemany("DELETE FROM dead WHERE id = ?", [(letter.id,) for letter in letters])
            for letter in letters:
                self._db.execute(_COUNT, (letter.run, letter.kind, "dead", -letter.n))
                self._db.execute(_COUNT, (letter.run, letter.kind, as_dropped("discarded by the user"), letter.n))

    def close(self) -> None:
        """Closes the database; everything in it is on disk then."""
        with self._lock:
            self._db.close()

    def leak(self) -> None:
        """In a forked child: never let this connection be closed there, which would checkpoint the parent's WAL."""
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        return connect(self.path)

    def _move_away(self) -> Path:
        target = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(target.with_name(target.name + suffix))
        return target

    @contextlib.contextmanager
    def _transaction(self, sync: bool = False) -> Iterator[None]:
        with self._lock:
            if sync:
                self._db.execute("PRAGMA synchronous = FULL")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                if sync:  # a transaction that writes nothing would not reach the disk, and take nothing along
                    self._db.execute("INSERT OR REPLACE INTO beat VALUES(1, ?)", (time.time(),))
                self._db.execute("COMMIT")
                if sync:
                    self._safe = self._db.execute("SELECT max(id) FROM block").fetchone()[0] or 0
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                make_room(self._db, error)
                raise
            finally:
                if sync:
                    self._db.execute("PRAGMA synchronous = NORMAL")

    def _all(self, sql: str, args: Sequence[object] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, args).fetchall()

    def _oldest(self, run: int, kind: Kind, limit: int) -> list[Block]:
        cursor = self._db.execute(f"{_BLOCK} WHERE run = ? AND kind = ? ORDER BY id", (run, kind))
        found: list[Block] = []
        for row in cursor:
            limit -= row[3]
            if found and limit < 0:
                break
            found.append(Block(*row))
        return found

    def _measure(self, ids: Sequence[int]) -> tuple[int, int]:
        """Bytes and entries of blocks that are still there (called within a transaction)."""
        size = entries = 0
        for id_ in ids:
            row = self._db.execute("SELECT length(body), n FROM block WHERE id = ?", (id_,)).fetchone()
            if row is not None:
                size, entries = size + row[0], entries + row[1]
        return size, entries

    def _grow(self, blocks: Iterable[tuple[int, Kind, int, int, bytes]]) -> None:
        with self._lock:
            for run, kind, n, _, body in blocks:
                self.bytes += len(body)
                self._waiting[run, kind] = self._waiting.get((run, kind), 0) + n

    def _shrink(self, run: int, kind: Kind, size: int, entries: int) -> None:
        with self._lock:
            self.bytes -= size
            self._waiting[run, kind] = self._waiting.get((run, kind), 0) - entries

    def _drop(self, rows: Sequence[Sequence[int]], reason: Reason, dropped: dict[int, int]) -> None:
        gone = []
        with self._transaction():
            for id_, run, n, size in rows:
                # Meanwhile it may be on its way, or delivered.
                if id_ not in self._held and self._db.execute("DELETE FROM block WHERE id = ?", (id_,)).rowcount:
                    self._db.execute(_COUNT, (run, "metric", as_dropped(reason), n))
                    gone.append((run, n, size))
        for run, n, size in gone:
            dropped[run] = dropped.get(run, 0) + n
            self._shrink(run, "metric", size, n)
