"""The system monitors of a session: one sampler, however many processes and runs want its samples.

A run's monitor starts with its record and ends with another, with the run, or with the process that owns the run. A
first sample is taken at its start and a last one at its end, also where other runs share the sampler. Samples become
rows like any others: what follows is the spool's and the delivery's way.

* A record that is read twice (its commit failed) counts once: each carries a token of its own.
* Steps count a run's samples and energy adds up through a second monitor, and through a new agent.
* A driver that does not answer may keep the sampler, but not the drain: after `_PATIENCE` its last sample is given up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tailrace_agent.decoding import convert
from tailrace_agent.ipc.records import Monitor, Samples, Tags, encode
from tailrace_agent.ipc.sample_board import BoardWriter, board_file
from tailrace_agent.log import Log
from tailrace_agent.retry import IDLE
from tailrace_agent.sampler.config import MonitorConfig
from tailrace_agent.sampler.sampler import Sample, Sampler
from tailrace_agent.sampler.source import Source

__all__ = ["Monitors", "Taken"]

_MOST_ROWS: Final = 10_000  # that wait while nothing can be committed (a full disk, say); then the oldest go, uncounted
_PATIENCE: Final = 3.0  # seconds
_NOTE_ENERGY_EVERY: Final = 30
"""Samples; reading the energy costs the driver a call."""


class _Place(NamedTuple):
    """Where samples go: monitors of one place are one."""

    run: int
    prefix: str
    node: str | None

    @property
    def name(self) -> str:
        """For the run's state."""
        return self.prefix if self.node is None else f"{self.prefix}/{self.node}"


class _Wanted:
    """What one place wants, and has had."""

    def __init__(self, watch: _Watch, samples: Samples, board: BoardWriter | None) -> None:
        self.watch, self.board = watch, board
        self.tokens: dict[int, bool] = {}
        self.board_only = True
        self.step, self.joules, self.names = samples.count, dict(samples.totals), samples.names
        self.base: dict[str, float] = {}
        self.tags: dict[str, str] = {}

    def add(self, record: Monitor) -> None:
        self.tokens[record.token] = record.board_only
        self.board_only = all(self.tokens.values())


class _Watch:
    """One sampler, and who shares it."""

    def __init__(self, config: MonitorConfig) -> None:
        self.config = config
        self.sampler: Sampler
        self.sampling = threading.Lock()
        self.wanted: dict[_Place, _Wanted] = {}
        self.tags: dict[str, str] = {}


class Taken(NamedTuple):
    """What `Monitors.take` brings: encoded rows, and by run and place how far its samples have come."""

    rows: list[bytes]
    progress: dict[int, dict[str, Samples]]


class Monitors:
    """Samples for all runs of a session that requested it.

    Args:
        sources: Makes the sources for a configuration.
        shared: The session's directory in shared memory, where the last samples are put up.
        log: Where operators read.

    Thread safety: `step` from one thread, all else from another one.
    """

    def __init__(self, sources: Callable[[MonitorConfig], list[Source]], shared: Path, log: Log) -> None:
        self._sources, self._shared, self._log = sources, shared, log
        self._lock = threading.Lock()  # held for moments; never while something is sampled
        self._watches: dict[MonitorConfig, _Watch] = {}
        self._wanted: dict[_Place, _Wanted] = {}
        # Of monitors that have ended: a later one of the same place counts on from there.
        self._before: dict[_Place, Samples] = {}
        self._rows: deque[bytes] = deque(maxlen=_MOST_ROWS)
        self._progress: dict[int, dict[str, Samples]] = {}

    def start(self, record: Monitor, before: Samples | None = None) -> None:
        """A run wants samples; a further monitor of the same prefix and node joins the one that it has.

        Args:
            record: What it wants.
            before: How far an earlier agent came with it.

        Raises:
            CallError: The configuration can never work (a newer version wrote it).
        """
        config = convert(record.config, MonitorConfig)
        place = _Place(record.run, config.prefix, config.node)
        with self._lock:
            wanted = self._wanted.get(place)
            if wanted is not None:
                wanted.add(record)
                return
            watch = self._watches.get(config)
        joins = watch is not None
        if watch is None:
            watch = _Watch(config)
            watch.sampler = Sampler(self._sources(config), config, partial(self._put, watch), self._log)
            self._log.info("system monitor begins", interval=config.interval)
        wanted = _Wanted(watch, before or self._before.get(place) or Samples(), self._board(place))
        wanted.add(record)
        sampler = watch.sampler
        now = (self._sample_now(watch, lambda _: sampler.totals()) or {}) if joins else {}
        wanted.base = {name: now.get(name, 0.0) - wanted.joules.get(name, 0.0) for name in {*now, *wanted.joules}}
        with self._lock:
            self._wanted[place] = watch.wanted[place] = wanted
            self._watches[config] = watch
        # The first sample of a run that joins: the sampler may not be due for a whole interval.
        if joins:
            self._sample_now(watch, partial(watch.sampler.extra, totals=False))

    def stop(self, record: Monitor) -> None:
        """A run wants no more samples of one monitor: the last one is taken now."""
        place = _Place(record.run, str(record.config.get("prefix", "system")), record.config.get("node"))
        wanted = self._wanted.get(place)
        if wanted is not None:
            wanted.tokens.pop(record.token, None)
            if not wanted.tokens:
                self._end(place, wanted)
            else:
                wanted.board_only = all(wanted.tokens.values())

    def stop_run(self, run: int) -> None:
        """A run has ended, and with it all of its monitors."""
        for place, wanted in list(self._wanted.items()):
            if place.run == run:
                self._end(place, wanted)
        for place in [place for place in self._before if place.run == run]:
            del self._before[place]
            board_file(self._shared, *place).unlink(missing_ok=True)  # who reads it already goes on reading it

    def step(self, now: float) -> float:
        """Takes the samples that are due; when to be called again (monotonic seconds)."""
        with self._lock:
            watches = list(self._watches.values())
        deadline = now + IDLE
        for watch in watches:
            with watch.sampling:
                deadline = min(deadline, watch.sampler.step(now))
        return deadline

    def take(self) -> Taken:
        """What has come since the last call, oldest first."""
        with self._lock:
            rows, progress = list(self._rows), self._progress
            self._rows.clear()
            self._progress = {}
        return Taken(rows, progress)

    def _end(self, place: _Place, wanted: _Wanted) -> None:
        watch = wanted.watch
        last = len(watch.wanted) == 1
        sampler = watch.sampler
        totals = self._sample_now(watch, sampler.finish if last else partial(sampler.extra, totals=True))
        with self._lock:
            del self._wanted[place], watch.wanted[place]
            if last:
                self._watches.pop(watch.config, None)
            wanted.joules.update(_since(totals or {}, wanted.base))
            self._before[place] = self._note(place, wanted)
        if last:
            self._log.info("system monitor ends", samples=sampler.samples, skipped=sampler.skipped)

    def _sample_now(self, watch: _Watch, sample: Callable[[float], dict[str, float]]) -> dict[str, float] | None:
        """A sample out of turn, on the caller's thread; None when the sampler is stuck in a call."""
        if not watch.sampling.acquire(timeout=_PATIENCE):
            self._log.warning("a source does not answer; a sample is left out", seconds=_PATIENCE)
            return None
        try:
            return sample(time.monotonic())
        finally:
            watch.sampling.release()

    def _put(self, watch: _Watch, sample: Sample) -> None:
        """A sample for each run that wants it, with the run's own count as its step; and for its board."""
        totals = watch.sampler.totals() if sample.step % _NOTE_ENERGY_EVERY == _NOTE_ENERGY_EVERY - 1 else {}
        with self._lock:
            watch.tags.update(sample.tags)
            for place, wanted in watch.wanted.items():
                values = {**sample.values, **_since(sample.values, wanted.base)}
                if wanted.board is not None:
                    wanted.board.write({**watch.sampler.latest, **values})
                step, wanted.step = wanted.step, wanted.step + 1
                if not (wanted.board_only or values.keys() <= set(wanted.names)):
                    wanted.names = sorted({*wanted.names, *values})  # a new list: the one before is being stored
                wanted.joules.update(_since(totals, wanted.base))
                self._note(place, wanted)
                if wanted.board_only:
                    continue
                self._rows.append(encode((place.run, step, sample.time_ns, values)))
                if wanted.tags != watch.tags:
                    wanted.tags = dict(watch.tags)
                    self._rows.append(encode(Tags(place.run, wanted.tags)))

    def _note(self, place: _Place, wanted: _Wanted) -> Samples:
        samples = Samples(wanted.step, dict(wanted.joules), wanted.names)
        self._progress.setdefault(place.run, {})[place.name] = samples
        return samples

    def _board(self, place: _Place) -> BoardWriter | None:
        try:
            return BoardWriter(board_file(self._shared, *place))
        except OSError as error:
            self._log.warning("no room in shared memory for the last sample", reason=str(error))
            return None


def _since(totals: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    """Of a sampler's totals, what belongs to one run; those that it has from the sampler's beginning as they are."""
    return {name: totals[name] - base.get(name, 0.0) for name in totals if name in base or name.endswith(_TOTALS)}


_TOTALS: Final = ("_energy_joules", "energy_kilowatt_hours")
