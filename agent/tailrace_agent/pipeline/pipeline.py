"""The pipeline: rings in, MLflow out, for one session. All of the agent's logic, without a thread or a process.

Three kinds of step, each called by a worker of its own, so that a server that hangs never keeps rows from the spool:
`drain` (rings → spool, who lives, status files), and for each tracking URI `deliver`, `upload` and `store_files`.
`Pipeline` sets what is done in which order; each part beside it has one thing to know:

* `ring_drain`: how far each ring was read. `takeover`: what a drain brings is written once.
* `owner_watch`: whose process is gone. `run_monitors`: which runs are sampled.
* `destinations`: what goes to which tracking URI. `status_files`: what is published, and to whom. `curve_files`: the
  courses of metrics, while somebody looks on.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from tailrace_agent.console.consoles import Consoles
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_jobs import rank_record
from tailrace_agent.delivery.run_records import stand_in
from tailrace_agent.ipc import staging
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus
from tailrace_agent.log import Log
from tailrace_agent.observers.curve_journal import CurveJournal
from tailrace_agent.observers.curves import Curves
from tailrace_agent.observers.observers import Observers
from tailrace_agent.pipeline.curve_files import CurveFiles
from tailrace_agent.pipeline.destinations import Destination, Destinations
from tailrace_agent.pipeline.owner_watch import OwnerWatch, owner_alive
from tailrace_agent.pipeline.ring_drain import RingDrain
from tailrace_agent.pipeline.run_monitors import RunMonitors
from tailrace_agent.pipeline.status_files import StatusFiles
from tailrace_agent.pipeline.takeover import Takeover
from tailrace_agent.provenance.metadata import Metadata
from tailrace_agent.runtime.file_limit import explained
from tailrace_agent.settings.settings import Settings
from tailrace_agent.sinks.base import SinkFactory
from tailrace_agent.spool.device_rows import DeviceRows
from tailrace_agent.spool.intake import Changes, Intake
from tailrace_agent.spool.store import Spool

__all__ = ["Pipeline"]

_LOOK_AROUND: Final = 0.5
"""Seconds between two looks at who lives."""


_BRISK: Final = 0.02
"""Seconds between two drains while runs begin and end, or somebody waits: then it is the drain that is waited for."""
_BRISK_FOR: Final = 1.0
"""Seconds after the last of these for which that goes on."""


def _nobody() -> None:
    """Nobody is to be woken."""


@dataclass(eq=False, kw_only=True)
class Pipeline:
    """Drains one session; `Pipeline.open` makes one.

    Attributes:
        session: The session.
        settings: In force when the agent began.
        spool: What waits.
        book: The runs.
        on_change: Called when deliveries may have something new to do; the host wakes them.

    Thread safety: `drain`, and the steps of each destination, from one thread each.
    """

    session: Session
    settings: Settings
    spool: Spool
    book: RunBook
    rings: RingDrain
    takeover: Takeover
    owners: OwnerWatch
    monitors: RunMonitors
    observers: Observers
    metadata: Metadata
    consoles: Consoles
    destinations: Destinations
    status_files: StatusFiles
    curve_files: CurveFiles
    monotonic: Callable[[], float]
    on_change: Callable[[], None] = _nobody
    _look_at: float = field(default=0.0, init=False)
    _brisk_until: float = field(default=0.0, init=False)

    @classmethod
    def open(
        cls,
        session: Session,
        open_sink: SinkFactory,
        log: Log,
        *,
        host: str = "process",
        hosted: bool = False,
        credentials: dict[str, str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Pipeline:
        """Opens the session's spool, and goes on where an earlier agent has stopped.

        Args:
            session: The session; the caller holds its agent lock.
            open_sink: Opens a sink for a tracking URI.
            log: Where operators read.
            host: `process` or `thread`, for the status.
            hosted: Its process logs, too (a thread-hosted agent): rings of this process are alive by definition.
            credentials: `user:password` by masked URI that an earlier agent of this session was given.
            monotonic: The clock of all deadlines.

        Raises:
            sqlite3.Error, OSError: The disk refuses, or another process owns the spool.
        """
        settings, alive = session.info.settings, partial(owner_alive, session, hosted)
        spool = Spool(session.dir / "spool.db")
        book = _opened_book(session, spool, log)
        book.remember(credentials or {})
        curves = Curves(CurveJournal(session.dir / "curves.journal", log))
        observers = Observers(settings, book, spool, curves, session=session.id, host=session.info.hostname, log=log)
        observers.resume(same_boot=session.here)
        devices = _resumed_devices(session, spool, book, monotonic(), log)
        intake = Intake(partial(staging.stage_text, session.artifacts), saw=observers.saw, devices=devices)
        for state in book.all():
            if state.rank_steps is not None:
                intake.ranks.resume(state.run, state.rank_steps)
            for rank in state.ranks:
                intake.resume_rank(state.spec, rank_record(state.run, rank), rank.ring)
        rings = RingDrain(session, spool, book, intake, alive, log)
        owners, monitors = OwnerWatch(session, book, log), RunMonitors(session, spool, book, alive, log)
        group = os.getpgrp() if host == "process" else 0
        agent = AgentStatus(pid=os.getpid(), host=host, started=time.time(), seen=time.time(), group=group)
        pipeline = cls(
            session=session,
            settings=settings,
            spool=spool,
            book=book,
            rings=rings,
            takeover=Takeover(
                spool=spool,
                book=book,
                intake=intake,
                rings=rings,
                owners=owners,
                monitors=monitors,
                observers=observers,
                log=log,
            ),
            owners=owners,
            monitors=monitors,
            observers=observers,
            consoles=Consoles(session.dir, session.artifacts, book, settings.console_max_bytes, log),
            metadata=Metadata(book, session.artifacts, os.uname().nodename, log),
            destinations=Destinations(
                session, settings, open_sink, spool=spool, book=book, log=log, monotonic=monotonic
            ),
            status_files=StatusFiles(session, spool, book, observers, agent, log),
            curve_files=CurveFiles(session, observers.curves, log, monotonic),
            monotonic=monotonic,
        )
        pipeline.destinations.update()
        pipeline.monitors.resume()
        return pipeline

    # -- the drain ---------------------------------------------------------------------------------------------------

    def drain(self, now: float) -> float:
        """Takes over what the rings hold; when to be called again (monotonic seconds)."""
        try:
            deadline = self._drain(now)
        except (sqlite3.Error, OSError) as error:
            reason = explained(error, self.session.dir)
            self.status_files.publish_problem(f"the agent cannot take over what is logged: {reason}")
            raise
        if self.status_files.problem is not None:
            self.status_files.publish_problem(None)
        return deadline

    def _drain(self, now: float) -> float:
        barriers_due = self.book.waiters.unset_barriers
        if barriers_due or now >= self._look_at:  # who waits, waits also for children that were too quick to be seen
            self.rings.find()
        more = self.takeover.step(now, partial(self._committed, now))
        # Behind a frame that is not whole may stand what was logged before the barrier was requested.
        stuck = self.rings.stuck
        if barriers_due and not more and not stuck:
            self.book.waiters.set_barriers(self.spool.waiting.last_id())
            self.on_change()
        self.takeover.keep_bound(self.settings.spool_max_bytes)
        if now >= self._look_at:
            self._look_around(now)
            self._look_at = now + _LOOK_AROUND
        self.status_files.publish(now)
        self.curve_files.step(now)
        # At once: the next drain writes the ends of those that are gone, and finds the rings read for the barriers.
        if more or self.owners.gone or (self.book.waiters.unset_barriers and not stuck):
            return now
        # Without a ring there is nothing to see before the next look around.
        if not self.rings.reading:
            return max(now, self._look_at)
        interval = self.settings.drain_interval
        return now + (min(interval, _BRISK) if now < self._brisk_until else interval)

    def _committed(self, now: float, changes: Changes) -> None:
        if changes.starts or changes.ends or changes.flushes:
            self._brisk_until = now + _BRISK_FOR
        if changes.starts:
            self.destinations.update()
        self.on_change()

    def _look_around(self, now: float) -> None:
        self.rings.retire(now)  # first: a run counts as killed when its ring is none of those that are left
        rings = self.rings.names
        # Only without a ring: as long as there is one, the record of such a run may still come.
        if not rings and self.book.adopt(self.spool.waiting.runs):
            self.destinations.update()
        self.owners.look(rings)
        self.status_files.publish_liveness(self.observers.url)

    # -- the other steps ---------------------------------------------------------------------------------------------

    @property
    def by_uri(self) -> dict[str | None, Destination]:
        """What goes where, by tracking URI (without passwords): more may come, none goes."""
        return self.destinations.by_uri

    def deliver(self, destination: Destination, now: float) -> float:
        """One step of a destination's delivery, and an answer to those who wait for it."""
        opened = destination.delivery.opened
        deadline = destination.delivery.step(now)
        if not destination.delivery.probing:  # a store that is away is asked nothing else
            deadline = min(deadline, destination.stops.step(destination.delivery.sink, now))
        if destination.delivery.opened != opened:
            self.on_change()  # its files may be uploaded now
        if self.book.waiters.awaited:
            self.status_files.publish(now)
        return deadline

    def upload(self, destination: Destination, now: float) -> float:
        """One step of a destination's uploads, and an answer to those who wait for it."""
        return self._uploaded(destination.uploads.step(now), now)

    def store_files(self, destination: Destination, now: float) -> float:
        """One step of what stores tailrace's own files there, and an answer to those who wait for it."""
        return self._uploaded(destination.files.step(now), now)

    def _uploaded(self, deadline: float, now: float) -> float:
        if deadline <= now:
            self.on_change()  # something has arrived: perhaps the last that its run was waiting for
        if self.book.waiters.awaited:
            self.status_files.publish(now)
        return deadline

    @property
    def helpers(self) -> dict[str, Callable[[float], float]]:
        """What else has to be done, each in a thread of its own, by name: more may come, none goes."""
        steps = self.observers.helpers
        if (sample := self.monitors.step) is not None:
            steps["sample"] = sample
        if any(not state.described for state in self.book.all_unfinished()):
            steps["describe"] = self._describe
        if self.consoles.wanted:
            steps["console"] = self._read_consoles
        return steps

    def _describe(self, now: float) -> float:
        deadline = self.metadata.step(now)
        if deadline <= now:
            self.on_change()  # there is something to upload
        return deadline

    def _read_consoles(self, now: float) -> float:
        staged = self.consoles.staged
        deadline = self.consoles.step(now)
        if self.consoles.staged != staged:
            self.on_change()  # there is something to upload
        return deadline

    # -- how far it is -----------------------------------------------------------------------------------------------

    @property
    def deserted(self) -> bool:
        """Whether no process of the session is left, and no ring unread."""
        return self.rings.deserted

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do: every run finalized, and no damaged spool still to be read."""
        if self.spool.waiting.points or self.observers.pending or self.takeover.waiting:
            return False
        if any(found.begun for found in self.spool.set_aside):
            return False
        return not self.book.all_unfinished() and not self.owners.awaits_jobs

    @property
    def stuck(self) -> bool:
        """Whether what is left cannot be delivered by this agent: every store involved was refused.

        Or it is in a damaged spool that is read when the session is opened next, since the disk was full at this time.
        """
        left = {state.spec.tracking_uri for state in self.book.all_unfinished()}
        more = self.observers.pending or self.owners.awaits_jobs or self.takeover.waiting
        return self.destinations.refused(left) and not more

    def close(self) -> None:
        """Writes the last status and closes the spool."""
        self.status_files.publish(self.monotonic(), force=True)  # before the spool is closed, which has the ledgers
        self.observers.close()
        self.spool.close()
        self.rings.close()


def _resumed_devices(session: Session, spool: Spool, book: RunBook, now: float, log: Log) -> DeviceRows:
    """The rows that an earlier agent has put aside, until devices have written their values."""
    devices = DeviceRows(session.slots)
    for block in devices.resume(spool.waiting.aside()):
        log.error("a row that was put aside cannot be read", block=block)
        spool.give_up_aside(block, "unreadable block")
    for state in book.all():
        if state.end is not None:
            devices.ended(state.run, now)
    return devices


def _opened_book(session: Session, spool: Spool, log: Log) -> RunBook:
    """The runs that the spool knows, and what became of a spool that could not be read."""
    for found in spool.set_aside:
        log.error("spool was unreadable and set aside", **msgspec.to_builtins(found))
    book = RunBook(spool.runs(), spool.save_run, partial(stand_in, session.info))
    # An agent was killed after rows had come for a run that was finalized.
    book.reopen(state.run for state in book.all() if spool.waiting.backlog(state.run))
    if spool.set_aside:
        for state in book.all():
            book.update(state.run, partial=True, noted=True)
            for found in spool.set_aside:
                book.notice(state.run, str(found))
    return book
