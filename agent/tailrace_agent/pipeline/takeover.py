"""What a drain brings, written once: rows, counts, run states and ring positions in one transaction.

Invariants
----------
1. The rings' tails move after the commit, and nothing is reported before it. So a drain that fails, or is
   killed, is done again as a whole.
2. While it is being written, no newer state of a run is written before it (`RunBook.steady`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.records import Alert, run_hex
from tailrace_agent.log import Log
from tailrace_agent.observers.observers import Observers
from tailrace_agent.pipeline.owner_watch import Gone, OwnerWatch
from tailrace_agent.pipeline.ring_drain import RingDrain
from tailrace_agent.pipeline.run_monitors import RunMonitors
from tailrace_agent.spool.intake import Changes, Intake
from tailrace_agent.spool.store import Spool

__all__ = ["Takeover"]

_SYNC_EVERY: Final = 0.4
"""Seconds between two commits that wait for the disk."""


class Takeover:
    """Takes over what the rings of one session hold.

    Args:
        spool: Where it is written.
        book: The runs.
        intake: Makes blocks of rows.
        rings: Feed the intake.
        owners: Knows the runs whose process is gone.
        monitors: Feed the intake with samples.
        observers: See what passes.
        log: Where operators read.

    Not thread-safe: the drain's thread calls everything.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        book: RunBook,
        intake: Intake,
        rings: RingDrain,
        owners: OwnerWatch,
        monitors: RunMonitors,
        observers: Observers,
        log: Log,
    ) -> None:
        self._spool, self._book, self._intake, self._log = spool, book, intake, log
        self._rings, self._owners, self._monitors, self._observers = rings, owners, monitors, observers
        self._sync_at = 0.0
        self._unsynced = False

    def step(self, now: float, committed: Callable[[Changes], None]) -> bool:
        """Reads every ring once and commits; whether there is more.

        Args:
            now: Monotonic seconds.
            committed: Called after each commit, before the rings' tails move.

        Raises:
            sqlite3.Error, OSError: The disk refuses. Nothing has changed: the next step reads the same once more.
        """
        kept = self._intake.ranks.keep()
        try:
            return self._step(now, committed)
        except BaseException:
            self._intake.ranks.restore(kept)
            raise

    def _step(self, now: float, committed: Callable[[Changes], None]) -> bool:
        self._intake.feed_landed(now)
        reading = self._rings.read(now)
        self._intake.ranks.close_all_but(self._rings.found)
        changes = self._intake.take()
        gone = self._owners.gone
        self._add_samples(changes, gone)
        if alerts := self._observers.take(changes, now):
            self._intake.feed("", alerts)
            changes.add(self._intake.take())
        if reading.taken or changes or gone:
            aside = self._commit(changes, reading.positions, gone, now)
            committed(changes)
            self._announce(gone)
            reading.commit()
            self._intake.devices.committed(zip(aside, changes.aside, strict=True), changes.landed, changes.safe)
            self._observers.done()
        # Nothing new, but earlier commits have not waited for the disk: an empty one that waits takes them along.
        elif self._unsynced and now >= self._sync_at:
            self._commit(changes, [], gone, now)
            committed(changes)
            self._observers.done()
        return reading.more

    @property
    def waiting(self) -> bool:
        """Whether statistics of ranks wait for some of them."""
        return self._intake.ranks.waiting

    def keep_bound(self, max_bytes: int) -> None:
        """Drops the oldest metrics where more waits than the spool may hold."""
        if self._spool.waiting.bytes > max_bytes:
            for run, points in self._spool.waiting.shed(max_bytes, "spool at its bound").items():
                self._log.error("spool at its bound", run=run_hex(run), dropped=points)
                self._book.notice(run, "the spool is at its bound (spool_max_bytes): the oldest metrics are dropped")
                self._book.touch(run)

    def _add_samples(self, changes: Changes, gone: Mapping[int, Gone]) -> None:
        samples = self._monitors.follow(changes, gone)
        if samples is not None:
            self._intake.feed_samples(samples.rows)
            changes.add(self._intake.take())
            changes.progress = samples.progress

    def _commit(
        self, changes: Changes, rings: list[tuple[str, int, int]], gone: Mapping[int, Gone], now: float
    ) -> list[int]:
        # First, and apart: what fails after `ingest` would have the rings read again. A kill in between is a gap in the
        # samples' steps, and no step twice.
        for run, samples in changes.progress.items():
            self._book.sampled(run, samples)
        sync = now >= self._sync_at
        with self._book.steady():
            states = [(start.spec.run, self._book.start(start, ring)) for start, ring in changes.starts]
            states += [(rank.run, state) for rank, ring in changes.ranks if (state := self._book.rank(rank, ring))]
            states += [(end.run, state) for end in changes.ends if (state := self._book.end(end))]
            states += [
                (end.run, state)
                for end, why, of_job in gone.values()
                if (state := self._book.end(end, why, of_job=of_job))
            ]
            states += [(record.run, state) for record in changes.monitors if (state := self._book.monitor(record))]
            states += [(each.run, state) for each in changes.goals if (state := self._book.goals(each))]
            self._look_back(changes, gone)  # before the steps of ranks, of which it may complete some
            states += [(run, state) for run, best in changes.bests.items() if (state := self._book.bests(run, best))]
            states += [(run, s) for run, at in changes.bests_ms.items() if (s := self._book.bests_written(run, at))]
            states += [(run, state) for run, steps in changes.steps.items() if (state := self._book.steps(run, steps))]
            states += self._book.reopen(changes.runs)
            aside = self._spool.ingest(
                changes.blocks,
                changes.tallies,
                states,
                rings,
                aside=changes.blocks_aside,
                landed=[(row.run, block) for block, row in changes.landed],
                sync=sync,
            )
        self._unsynced = not sync
        if sync:
            self._sync_at = now + _SYNC_EVERY
        self._note(changes)
        for end in (*changes.ends, *(each.end for each in gone.values())):
            if end.status == "RUNNING":
                self._intake.devices.goes_on(end.run)
            else:
                self._intake.devices.ended(end.run, now)
        return aside

    def _look_back(self, changes: Changes, gone: Mapping[int, Gone]) -> None:
        """What a run gets with its end is written in the same transaction, and so is all that it follows from."""
        rows = self._observers.look_back(changes, [*changes.ends, *(end for end, _, _ in gone.values())])
        if rows:
            self._intake.feed_samples(rows)
            changes.add(self._intake.take())

    def _note(self, changes: Changes) -> None:
        """What the run book has to know of what is written."""
        self._book.note_last(changes.last_ns)
        for run in changes.runs:
            self._book.touch(run)
        for flush, ring in changes.flushes:
            self._book.waiters.mark(flush.run, ring, flush.token)
            self._book.touch(flush.run)
        for run, text in changes.notices:
            self._book.notice(run, text)
        for found in self._spool.set_aside:
            for start, _ in changes.starts:
                if start.again:  # its run may have been in the damaged spool alone
                    self._book.notice(start.spec.run, str(found))

    def _announce(self, gone: Mapping[int, Gone]) -> None:
        """These ends are written: now they may be announced."""
        for run, (end, reason, _) in gone.items():
            self._owners.forget(run)
            if reason is not None:  # its tag is `tailrace.end_reason`
                self._observers.announce(Alert(run, "run killed", reason, "error", end.time_ms))
