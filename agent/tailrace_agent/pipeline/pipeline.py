"""The pipeline: rings in, MLflow out, for one session. All of the agent's logic, without a thread or a process.

Three kinds of step, each called by a worker of its own, so that a server that hangs never keeps rows from the spool:
`drain` (rings → spool, who lives, what is told), and for each tracking URI `Delivery.step` and `Uploads.step`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import msgspec

from tailrace_agent.delivery.deliver import Delivery
from tailrace_agent.delivery.run_book import RunBook, RunState, stand_in
from tailrace_agent.delivery.uploads import Uploads
from tailrace_agent.errors import CallError, SessionError
from tailrace_agent.ipc import staging, status
from tailrace_agent.ipc.records import Alert, End, run_hex
from tailrace_agent.ipc.ring_reader import Frames, RingReader
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus
from tailrace_agent.log import Log
from tailrace_agent.observers.observers import Onlookers
from tailrace_agent.pipeline.monitors import Monitors
from tailrace_agent.provenance.metadata import Metadata
from tailrace_agent.runtime.file_limit import explained
from tailrace_agent.sampler.config import MonitorConfig, key
from tailrace_agent.sampler.health import Health
from tailrace_agent.settings.uris import unmask_uri
from tailrace_agent.sinks.base import SinkFactory
from tailrace_agent.spool.intake import Changes, Intake
from tailrace_agent.spool.store import Spool

__all__ = ["Channel", "Pipeline"]

_LOOK_AROUND = 0.5
"""Seconds between two looks at who lives."""
_GIVE_UP_AFTER = 5.0
"""Seconds after which a frame that cannot be believed is skipped though its writer lives."""
_SYNC_EVERY = 0.4
"""Seconds between two commits that wait for the disk."""
_PUBLISH_EVERY = 0.1
_DAMAGED: Final = "damaged in the ring"


class Channel(NamedTuple):
    """What goes to one tracking URI."""

    delivery: Delivery
    uploads: Uploads


class _Source:
    """A ring being drained."""

    def __init__(self, reader: RingReader) -> None:
        self.reader = reader
        self.stuck_since: float | None = None
        self.dead = False


class Pipeline:
    """Drains one session.

    Args:
        session: The session; the caller holds its agent lock.
        open_sink: Opens a sink for a tracking URI.
        log: Where operators read.
        host: `process` or `thread`, for the status.
        hosted: Its process logs, too (a thread-hosted agent): rings of this process are alive by definition.
        credentials: `user:password` by masked URI that an earlier agent of this session was told.

    Attributes:
        channels: What goes where, by tracking URI (without passwords).
        on_change: Called when deliveries may have something new to do; the host wakes them.

    Thread safety: `drain`, and the steps of each channel, from one thread each.
    """

    def __init__(
        self,
        session: Session,
        open_sink: SinkFactory,
        log: Log,
        *,
        host: str = "process",
        hosted: bool = False,
        credentials: dict[str, str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session, self.log = session, log
        self._settings = session.info.settings
        self._open_sink, self._hosted, self._monotonic = open_sink, hosted, monotonic
        self.spool = Spool(session.dir / "spool.db")
        if self.spool.set_aside:
            told = self.spool.set_aside
            log.error("spool was unreadable and set aside", **msgspec.to_builtins(told))
        self.book = RunBook(self.spool.runs(), self.spool.save_run, partial(stand_in, session.info))
        # An agent was killed after rows had come for a run that was finalized.
        self.book.reopen(state.run for state in self.book.all() if self.spool.backlog(state.run))
        if self.spool.set_aside:
            for state in self.book.all():
                self.book.update(state.run, partial=True, noted=True)
                self.book.notice(state.run, str(self.spool.set_aside))
        self.book.remember(credentials or {})
        self.channels: dict[str | None, Channel] = {}
        self.onlookers = Onlookers(
            self._settings, self.book, self.spool, session=session.id, host=session.info.hostname, log=log
        )
        self._intake = Intake(partial(staging.stage_text, session.artifacts), saw=self.onlookers.saw)
        self._sources: dict[str, _Source] = {}
        self._status = AgentStatus(pid=os.getpid(), host=host, started=time.time(), seen=time.time())
        self._look_at = self._publish_at = self._sync_at = 0.0
        self._unsynced = False
        self._notified: dict[int, int] = {}
        # Runs whose process is gone, until their ends are written.
        self._gone: dict[int, tuple[End, str | None]] = {}
        self.on_change: Callable[[], None] = lambda: None
        self.monitors: Monitors | None = None
        self.metadata = Metadata(self.book, session.artifacts, os.uname().nodename, log)
        self._publishing = threading.Lock()
        self._update_channels()
        self._resume_monitors()

    # -- the drain's step --------------------------------------------------------------------------------------------

    def drain(self, now: float) -> float:
        """Takes over what the rings hold; when to be called again (monotonic seconds)."""
        try:
            deadline = self._drain(now)
        except (sqlite3.Error, OSError) as error:
            self._tell_problem(f"the agent cannot take over what is logged: {explained(error, self.session.dir)}")
            raise
        if self._status.problem is not None:
            self._tell_problem(None)
        return deadline

    def _tell_problem(self, problem: str | None) -> None:
        self._status.problem = problem
        try:
            status.write(self.session.shared / "agent.status", self._status)
        except OSError as error:
            self.log.warning("status not written", reason=str(error))

    def _drain(self, now: float) -> float:
        barriers_due = self.book.unset_barriers
        if barriers_due or now >= self._look_at:  # who waits, waits also for children that were too quick to be seen
            self._find_rings()
        more = self._take_over(now)
        # Behind a frame that is not whole may stand what was logged before the barrier was asked for.
        stuck = any(source.stuck_since is not None for source in self._sources.values())
        if barriers_due and not more and not stuck:
            self.book.set_barriers(self.spool.last_id())
            self.on_change()
        self._keep_bound()
        if now >= self._look_at:
            self._look_around()
            self._look_at = now + _LOOK_AROUND
        self.publish(now)
        if more or self._gone or (self.book.unset_barriers and not stuck):
            return now
        # Without a ring there is nothing to see before the next look around.
        return now + self._settings.drain_interval if self._sources else max(now, self._look_at)

    def deliver(self, channel: Channel, now: float) -> float:
        """One step of a channel's delivery, and an answer to those who wait for it."""
        deadline = channel.delivery.step(now)
        if self.book.awaited:
            self.publish(now)
        return deadline

    def upload(self, channel: Channel, now: float) -> float:
        """One step of a channel's uploads, and an answer to those who wait for it."""
        deadline = channel.uploads.step(now)
        if deadline <= now:
            self.on_change()  # something has arrived: perhaps the last that its run was waiting for
        if self.book.awaited:
            self.publish(now)
        return deadline

    def publish(self, now: float, *, force: bool = False) -> None:
        """Answers those who wait, and rewrites the status files of the runs that changed."""
        with self._publishing:
            answered = self.book.settle_marks(self.spool.first_waiting)
            if now < self._publish_at and not force and not answered:
                return
            self._publish_at = now + _PUBLISH_EVERY
            for run in self.book.take_changed():
                try:
                    self._publish_run(run)
                except OSError as error:  # no room in shared memory, say: it is told as soon as there is some
                    self.log.warning("status not written", run=run_hex(run), reason=str(error))
                    self.book.touch(run)

    def _describe(self, now: float) -> float:
        deadline = self.metadata.step(now)
        if deadline <= now:
            self.on_change()  # there is something to upload
        return deadline

    @property
    def helpers(self) -> dict[str, Callable[[float], float]]:
        """What else has to be done, each in a thread of its own, by name: more may come, none goes."""
        steps = self.onlookers.helpers
        if self.monitors is not None:
            steps["sample"] = self.monitors.step
        if any(not state.described for state in self.book.all()):
            steps["describe"] = self._describe
        return steps

    @property
    def deserted(self) -> bool:
        """Whether no process of the session is left, and no ring unread."""
        return not self._sources and not self.session.rings()

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do: every run finalized."""
        return not self.spool.points and not self.onlookers.pending and all(s.finalized for s in self.book.all())

    @property
    def stuck(self) -> bool:
        """Whether what is left cannot be delivered by this agent: every store involved was refused."""
        left = {s.spec.tracking_uri for s in self.book.all() if not s.finalized}
        refused = all(uri in self.channels and self.channels[uri].delivery.refused for uri in left)
        return refused and not self.onlookers.pending

    def close(self) -> None:
        """Writes the last status and closes the spool."""
        self.publish(self._monotonic(), force=True)
        self.onlookers.close()
        self.spool.close()
        for source in self._sources.values():
            source.reader.close()

    # -- rings into the spool ----------------------------------------------------------------------------------------

    def _find_rings(self) -> None:
        positions: dict[str, tuple[int, int]] | None = None
        for name in self.session.rings():
            if name in self._sources:
                continue
            try:
                source = _Source(self.session.reader(name))
            except (SessionError, OSError) as error:
                self.log.error("ring cannot be read", ring=name, reason=str(error))
                if isinstance(error, SessionError) and not self._owner_alive(name):
                    self._intake.drop(self._run_of(name), _DAMAGED, 1)
                    self.session.remove_ring(name)
                continue
            positions = self.spool.ring_positions() if positions is None else positions
            if name in positions:  # an agent was killed between its commit and the moving of the tail
                source.reader.resume(*positions[name])
            self._sources[name] = source
            self.log.info("ring found", ring=name, pid=source.reader.pid)

    def _take_over(self, now: float) -> bool:
        """Reads every ring once and commits; whether there is more."""
        more, taken = False, []
        for name, source in self._sources.items():
            frames = self._read(name, source, now)
            if frames is None:
                continue
            if frames.damaged:
                self.log.error("damaged frames skipped", ring=name, frames=frames.damaged)
                self._intake.drop(self._run_of(name), _DAMAGED, frames.damaged)
            if frames.rows or (frames.tail, frames.spill) != source.reader.position:
                try:
                    self._intake.feed(name, frames.rows)
                except BaseException:
                    self._intake.take()  # what was fed so far will be read, and fed, once more
                    raise
                taken.append((name, source, frames))
                more = more or frames.more
        changes = self._intake.take()
        self._watch(changes)
        gone = dict(self._gone)
        if alerts := self.onlookers.take(changes, now):
            self._intake.feed("", alerts)
            changes.add(self._intake.take())
        if taken or changes or gone:
            self._commit(changes, [(name, frames.tail, frames.spill) for name, _, frames in taken], now)
            self._announce(gone)
            for _, source, frames in taken:
                source.reader.commit(frames.tail, frames.spill)
            self.onlookers.done()
        elif self._unsynced and now >= self._sync_at:
            self._commit(changes, [], now)
        return more

    def _read(self, name: str, source: _Source, now: float) -> Frames | None:
        """What a ring holds; None where it cannot be read now, which is no matter of the other rings."""
        try:
            frames = source.reader.read(give_up=self._give_up(source, now))
        except OSError as error:
            if source.stuck_since is None:
                self.log.error("ring cannot be read", ring=name, reason=str(error))
            source.stuck_since = source.stuck_since or now
            return None
        stuck = frames.more and not frames.rows and not frames.damaged
        source.stuck_since = (source.stuck_since or now) if stuck else None
        return frames

    def _announce(self, gone: dict[int, tuple[End, str | None]]) -> None:
        """These ends are written: now they may be told."""
        for run, (end, reason) in gone.items():
            del self._gone[run]
            if reason is not None:  # its tag is `tailrace.end_reason`
                self.onlookers.announce(Alert(run, "run killed", reason, "error", end.time_ms))

    def _watch(self, changes: Changes) -> None:
        """Begins and ends system monitors, and takes their samples along."""
        if changes.monitors and self.monitors is None:
            self.monitors = self._make_monitors()
        if self.monitors is None:
            return
        for record in changes.monitors:
            try:
                (self.monitors.start if record.on else self.monitors.stop)(record)
            except (CallError, msgspec.ValidationError) as error:
                changes.notices.append((record.run, f"the system monitor cannot be started: {error}"))
        for run in (*self._gone, *(end.run for end in changes.ends)):
            self.monitors.stop_run(run)
        taken = self.monitors.take()
        self._intake.feed_samples(taken.rows)
        changes.add(self._intake.take())
        changes.progress = taken.progress

    def _run_of(self, ring: str) -> int:
        return next((state.run for state in reversed(self.book.all()) if state.ring == ring), 0)

    def _give_up(self, source: _Source, now: float) -> bool:
        return source.dead or (source.stuck_since is not None and now - source.stuck_since > _GIVE_UP_AFTER)

    def _commit(self, changes: Changes, rings: list[tuple[str, int, int]], now: float) -> None:
        # First, and apart: what fails after `ingest` would have the rings read again. A kill in between is a gap in the
        # samples' steps, and no step twice.
        for run, samples in changes.progress.items():
            self.book.sampled(run, samples)
        sync = now >= self._sync_at
        with self.book.steady():
            states = [(start.spec.run, self.book.start(start, ring)) for start, ring in changes.starts]
            states += [(end.run, state) for end in changes.ends if (state := self.book.end(end))]
            states += [(end.run, state) for end, why in self._gone.values() if (state := self.book.end(end, why))]
            states += [(record.run, state) for record in changes.monitors if (state := self.book.monitor(record))]
            states += self.book.reopen(changes.runs)
            self.spool.ingest(changes.blocks, changes.tallies, states, rings, sync=sync)
        self._unsynced = not sync
        if sync:
            self._sync_at = now + _SYNC_EVERY
        self.book.note_last(changes.last_ns)
        for run in changes.runs:
            self.book.touch(run)
        for flush, ring in changes.flushes:
            self.book.mark(flush.run, ring, flush.token)
        for run, text in changes.notices:
            self.book.notice(run, text)
        if self.spool.set_aside:
            for start, _ in changes.starts:
                if start.again:
                    self.book.notice(start.spec.run, str(self.spool.set_aside))
        if changes.starts:
            self._update_channels()
        self.on_change()

    def _keep_bound(self) -> None:
        if self.spool.bytes > self._settings.spool_max_bytes:
            for run, points in self.spool.shed(self._settings.spool_max_bytes, "spool at its bound").items():
                self.log.error("spool at its bound", run=run_hex(run), dropped=points)
                self.book.notice(run, "the spool is at its bound (spool_max_bytes): the oldest metrics are dropped")
                self.book.touch(run)

    # -- who lives ---------------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        for name, source in list(self._sources.items()):
            if not self._owner_alive(name):
                if source.dead and not source.reader.unread:
                    self._bury_ring(name, source)
                source.dead = True  # whoever died may have written after the last read: read once more
        rings = {*self._sources, *self.session.rings()}
        if not rings and self.book.adopt(self.spool.waiting_runs):
            self._update_channels()
        for state in self.book.all():
            if state.end is None and state.ring not in rings and not (state.rebuilt and rings):
                self._gone[state.run] = self._end_of_gone(state)
        self._status.seen, self._status.pending = time.time(), self.spool.points
        self._status.spool_bytes, self._status.metrics_url = self.spool.bytes, self.onlookers.url
        try:
            status.write(self.session.shared / "agent.status", self._status)
        except OSError as error:
            self.log.warning("status not written", reason=str(error))

    def _owner_alive(self, ring: str) -> bool:
        ours = self._hosted and self.session.is_ring_of_this_process(ring)
        return ours or self.session.owner_alive(ring)

    def _bury_ring(self, name: str, source: _Source) -> None:
        self.log.info("process gone", ring=name, pid=source.reader.pid)
        source.reader.close()
        del self._sources[name]
        self.spool.forget_ring(name)  # older versions named them after processes, whose ids come back
        self.session.remove_ring(name)

    def _end_of_gone(self, state: RunState) -> tuple[End, str | None]:
        """The end of a run that nobody has said, and why."""
        at = state.last_ns // 1_000_000 or state.spec.start_time
        if state.rebuilt:
            return End(state.run, "KILLED", at), "its record could not be read, and its programs are gone"
        if not state.spec.owned:  # a handle on somebody else's run: over, and nothing to be told
            return End(state.run, "FINISHED", at), None
        pid = state.ring.partition("-")[0]
        self.log.warning("run killed", run=run_hex(state.run), pid=pid)
        return End(state.run, "KILLED", at), (
            f"process {pid} on {self.session.info.hostname} disappeared without ending the run (killed, or crashed)"
        )

    # -- the system monitors -----------------------------------------------------------------------------------------

    def _make_monitors(self) -> Monitors:
        from tailrace_agent.sampler.sources import all_sources  # psutil and NVML, only where something is sampled

        shared = self.session.shared
        return Monitors(lambda config: all_sources(config, self.log, self._health, shared), shared, self.log)

    def _resume_monitors(self) -> None:
        """An earlier agent was killed: what it sampled, this one samples, if the run's process still lives."""
        for state in self.book.all():
            if not state.monitors or state.end is not None or not self._owner_alive(state.ring):
                continue
            self.monitors = self.monitors or self._make_monitors()
            for record in state.monitors:
                try:
                    config = msgspec.convert(record.config, MonitorConfig)
                    self.monitors.start(record, state.samples.get(key(config.prefix, config.node, "")[:-1]))
                except (CallError, msgspec.ValidationError) as error:
                    self.log.error("system monitor cannot go on", run=run_hex(state.run), reason=str(error))

    def _health(self) -> Health:
        oldest = [at for state in self.book.all() if not state.finalized and (at := self.spool.oldest_ns(state.run))]
        lag = max(0.0, time.time() - min(oldest) / 1e9) if oldest else 0.0
        return Health(lag, self.spool.points, self.spool.bytes)

    # -- what is told ------------------------------------------------------------------------------------------------

    def _publish_run(self, run: int) -> None:
        state = self.book.get(run)
        if state is None:
            return
        oldest = self.spool.oldest_ns(run)
        lag = max(0.0, time.time() - oldest / 1e9) if oldest else 0.0
        ledger = self.spool.ledger(run)
        status.write(self.session.shared / status.run_file(run), self.book.status(run, ledger, lag))
        news = len(state.notices) + (state.ref is not None)  # where to look at it is told as soon as MLflow knows it
        if news > self._notified.get(run, 0):
            self._notified[run] = news
            self.session.ring_bell(state.ring)

    def _update_channels(self) -> None:
        for tracking_uri, cwd in self.book.destinations():
            if tracking_uri not in self.channels:
                self.channels[tracking_uri] = self._channel(tracking_uri, cwd)

    def _channel(self, tracking_uri: str | None, cwd: str) -> Channel:
        def open_sink():  # type: ignore[no-untyped-def]
            whole = unmask_uri(tracking_uri, self.book.credentials(tracking_uri)) if tracking_uri else None
            return self._open_sink(whole, cwd, request_timeout=self._settings.request_timeout)

        longest = self._settings.retry_max_delay
        delivery = Delivery(
            tracking_uri,
            self.spool,
            self.book,
            open_sink,
            flush_interval=self._settings.flush_interval,
            retry_max_delay=longest,
            log=self.log,
            monotonic=self._monotonic,
        )
        uploads = Uploads(
            delivery,
            self.spool,
            self.book,
            self.session.artifacts,
            retry_max_delay=longest,
            log=self.log,
            monotonic=self._monotonic,
        )
        return Channel(delivery, uploads)
