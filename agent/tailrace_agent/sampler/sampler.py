"""Samples every source in its turn, at `t0 + k * interval`, as a pure `step(now)`: a thread around it is the caller's.

What this module promises:

* The first sample is taken at once, the last one by `finish`, so that the shortest run shows something.
* Ticks never drift: each stands where it would stand had all the others been on time. One that is missed is skipped
  and counted, not replayed.
* Samples carry wall time, and a step that counts samples from 0. One without any value is none.
* `extra` samples come between the ticks, for one who joins or leaves, and move none of them.
* A source that is quiet, and a value that has not been seen for a while, are gone from `latest`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from tailrace_agent.log import Log
from tailrace_agent.sampler.config import MonitorConfig, key
from tailrace_agent.sampler.guard import Cost, Guarded
from tailrace_agent.sampler.source import Source

__all__ = ["Sample", "Sampler"]

_STALE: Final = 120.0  # seconds; or three periods of a source that is read more seldom
_LOOK_FOR_STALE_EVERY: Final = 10.0  # seconds: each look goes through every name
_JOULES_PER_KWH: Final = 3.6e6


class Sample(NamedTuple):
    """What one tick measured.

    Attributes:
        step: Counts samples, from 0.
        time_ns: Wall time.
        values: By full name.
        tags: What a source reports once, by full name; mostly empty.
    """

    step: int
    time_ns: int
    values: dict[str, float]
    tags: dict[str, str]


class Sampler:
    """Samples all sources of one monitor.

    Args:
        sources: The sources; each gets a guard of its own.
        config: Interval and names.
        on_sample: Takes each sample. What it raises leaves `step`, which will not repeat that sample.
        log: Where operators read.
        clock: Monotonic seconds.
        wall: Nanoseconds since the epoch.

    Attributes:
        latest: The last value of each metric by full name; replaced, never changed, so it may be kept and read.
        samples: Samples taken so far, and the step of the next one.
        skipped: Ticks that were missed.

    Thread safety: `step` and `finish` from one thread at a time; all else from any.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: MonitorConfig,
        on_sample: Callable[[Sample], object],
        log: Log,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config, self._on_sample, self._wall = config, on_sample, wall
        self._guards = [Guarded(source, log, interval=config.interval, clock=clock) for source in sources]
        self._recent: list[dict[str, float]] = [{} for _ in sources]  # the values of each source since the last look
        self._seen: list[dict[str, float]] = [{} for _ in sources]  # when each of its values was last seen by a look
        self._last: dict[str, float] = {}
        self._stale_at = -math.inf
        self._keys: dict[str, str] = {}
        self.latest: Mapping[str, float] = {}
        self.samples = 0
        self.skipped = 0
        self._start: float | None = None
        self._tick = 0
        self._finished = False

    def step(self, now: float) -> float:
        """Takes a sample if one is due at `now` (monotonic seconds); when to be called again."""
        if self._finished:
            return math.inf
        if self._start is None:
            self._start = now
        elif now < self._deadline:
            return self._deadline
        else:
            # `floor` may fall one short of a tick that is due, by the rounding of floats.
            reached = max(self._tick + 1, math.floor((now - self._start) / self._config.interval))
            self.skipped += reached - self._tick - 1
            self._tick = reached
        tick = self._at(self._tick)
        # The tick and not `now`: a source's next turn is counted from where this one should have been.
        self._emit(tick, [index for index, guard in enumerate(self._guards) if guard.due(tick)], {})
        return self._deadline

    def finish(self, now: float) -> dict[str, float]:
        """Takes the last sample, of all sources that work, with the totals in it, and closes them; the totals."""
        if self._finished:
            return {}
        self._finished = True  # before the sample: whatever that raises, no other follows
        # Due or not: a source that is read each 30 s would otherwise have nothing of a short run's end.
        working = [index for index, guard in enumerate(self._guards) if not guard.quiet]
        try:
            return self._emit(now, working, None)
        finally:
            for guard in self._guards:
                guard.close()

    def extra(self, now: float, *, totals: bool) -> dict[str, float]:
        """Takes a sample out of turn, of the sources that are read each tick; the totals, if requested."""
        if self._finished or self._start is None:  # before the first tick it would be sample 0, and early
            return {}
        due = [index for index, guard in enumerate(self._guards) if not guard.quiet and guard.due(now)]
        return self._emit(now, due, None if totals else {})

    def totals(self) -> dict[str, float]:
        """Sums since the start by full name: joules of each device, and kilowatt-hours of all."""
        totals: dict[str, float] = {}
        for guard in self._guards:
            totals.update(guard.totals())
        joules = [value for name, value in totals.items() if name.endswith("_energy_joules")]
        if joules:
            totals["energy_kilowatt_hours"] = sum(joules) / _JOULES_PER_KWH
        return self._named(totals)

    def costs(self) -> dict[str, Cost]:
        """What each source has cost so far, by its name."""
        return {guard.name: guard.cost for guard in self._guards}

    @property
    def _deadline(self) -> float:
        return self._at(self._tick + 1)

    def _at(self, tick: int) -> float:
        assert self._start is not None
        return self._start + tick * self._config.interval

    def _emit(self, now: float, due: list[int], totals: dict[str, float] | None) -> dict[str, float]:
        """Samples the sources that are due and hands the sample on. Without `totals`, they are added at the end."""
        time_ns = self._wall()  # once, before the first source: the values of a sample stand at one point of the chart
        values: dict[str, float] = {}
        tags: dict[str, str] = {}
        for index in due:
            guard = self._guards[index]
            sampled = guard.sample(now)
            if sampled:
                named = self._named(sampled)
                self._recent[index].update(named)
                values.update(named)
            elif guard.quiet:
                self._drop(index, [*self._seen[index], *self._recent[index]])
            if guard.has_tags:
                tags.update((self._key(name), text) for name, text in guard.tags().items())
        self._last.update(values)
        if now >= self._stale_at:
            self._forget(now)
        if totals is None:
            totals = self.totals()
            values.update(totals)
        # A new dict, in one assignment: other threads hold and read the last one without a lock.
        self.latest = {**self._last, **totals}
        if values:
            sample = Sample(self.samples, time_ns, values, tags)
            # Before the call, which may raise: the same step is never given twice.
            self.samples += 1
            self._on_sample(sample)
        return totals

    def _forget(self, now: float) -> None:
        """Looks for values that have not been seen for long."""
        self._stale_at = now + _LOOK_FOR_STALE_EVERY
        for index, (guard, recent, seen) in enumerate(zip(self._guards, self._recent, self._seen, strict=True)):
            seen.update(dict.fromkeys(recent, now))
            recent.clear()
            oldest = now - max(_STALE, 3 * guard.period)
            self._drop(index, [name for name, at in seen.items() if at < oldest])

    def _drop(self, index: int, names: list[str]) -> None:
        for name in names:
            self._seen[index].pop(name, None)
            self._recent[index].pop(name, None)
            self._last.pop(name, None)

    def _named(self, values: Mapping[str, float]) -> dict[str, float]:
        # Without a call for each value: there are some forty of them, and nothing else was as dear as their names.
        keys, finite = self._keys, math.isfinite
        try:
            return {keys[name]: value for name, value in values.items() if finite(value)}
        except KeyError:
            return {self._key(name): value for name, value in values.items() if finite(value)}

    def _key(self, name: str) -> str:
        known = self._keys.get(name)
        if known is None:
            known = self._keys[name] = key(self._config.prefix, self._config.node, name)
        return known
