"""Which runs have system monitors: they begin with a record, end with another one or the run, and outlive an agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from tailrace_agent.decoding import convert
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.errors import CallError
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.session import Session
from tailrace_agent.log import Log
from tailrace_agent.pipeline.monitors import Monitors, Taken
from tailrace_agent.sampler.config import MonitorConfig, key
from tailrace_agent.sampler.health import Health
from tailrace_agent.sampler.source import Source
from tailrace_agent.spool.intake import Changes
from tailrace_agent.spool.store import Spool

__all__ = ["RunMonitors"]


class RunMonitors:
    """The system monitors of one session's runs; nothing is loaded for them before the first is wanted.

    Args:
        session: The session.
        spool: What waits, for the monitor of tailrace itself.
        book: The runs.
        alive: Whether a ring's process lives.
        log: Where operators read.

    Thread safety: `resume` and `follow` from the drain's thread, `step` from one of its own.
    """

    def __init__(self, session: Session, spool: Spool, book: RunBook, alive: Callable[[str], bool], log: Log) -> None:
        self._session, self._spool, self._book = session, spool, book
        self._alive, self._log = alive, log
        self._monitors: Monitors | None = None

    @property
    def step(self) -> Callable[[float], float] | None:
        """What has to be done in a thread of its own, as soon as anything is sampled."""
        return self._monitors.step if self._monitors is not None else None

    def resume(self) -> None:
        """An earlier agent was killed: what it sampled, this one samples, if the run's process still lives."""
        for state in self._book.all():
            rings = [state.ring, *(rank.ring for rank in state.ranks)]  # any rank of a job may want samples
            if not state.monitors or state.end is not None or not any(map(self._alive, rings)):
                continue
            self._monitors = self._monitors or self._made()
            for record in state.monitors:
                try:
                    config = convert(record.config, MonitorConfig)
                    # `key` without a name, and without its last slash, is what `_Place.name` has written.
                    self._monitors.start(record, state.samples.get(key(config.prefix, config.node, "")[:-1]))
                except (CallError, msgspec.ValidationError) as error:
                    self._log.error("system monitor cannot go on", run=run_hex(state.run), reason=str(error))

    def follow(self, changes: Changes, gone: Iterable[int]) -> Taken | None:
        """Begins and ends monitors; what was sampled since the last call, if anything is sampled at all.

        Args:
            changes: What a drain has brought; a monitor that cannot be started is reported in its notices.
            gone: Runs whose process is gone.
        """
        if changes.monitors and self._monitors is None:
            self._monitors = self._made()
        if self._monitors is None:
            return None
        for record in changes.monitors:
            try:
                (self._monitors.start if record.on else self._monitors.stop)(record)
            except (CallError, msgspec.ValidationError) as error:
                changes.notices.append((record.run, f"the system monitor cannot be started: {error}"))
        for run in (*gone, *(end.run for end in changes.ends), *changes.done):
            self._monitors.stop_run(run)
        return self._monitors.take()

    def _made(self) -> Monitors:
        return Monitors(self._sources, self._session.shared, self._log)

    def _sources(self, config: MonitorConfig) -> list[Source]:
        from tailrace_agent.sampler.sources import all_sources  # psutil and NVML, only where something is sampled

        return all_sources(config, self._log, self._health, self._session.shared)

    def _health(self) -> Health:
        waiting = self._spool.waiting
        unfinished = [state.run for state in self._book.all_unfinished()]
        oldest = [at for run in unfinished if (at := waiting.oldest_ns(run))]
        lag = max(0.0, time.time() - min(oldest) / 1e9) if oldest else 0.0
        return Health(lag, waiting.points, waiting.bytes)
