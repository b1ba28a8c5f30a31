"""What stands between a source and the sampler, so that no source can hurt the others.

What this module promises:

* Whatever a source raises, it goes quiet with one line in the log, and is sampled again after a pause that grows from
  5 seconds to 10 minutes. A second line reports that it is back.
* A source that takes more than a tenth of the time between two of its samples is sampled half as often, and again,
  until it does not; it comes back step by step as it becomes fast. One line reports the one, one the other.
* Every call's time is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from tailrace_agent.log import Log
from tailrace_agent.sampler.source import Source, SourceGone

__all__ = ["Cost", "Guarded"]

_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 600.0
_HEALED: Final = 10
"""Samples in a row after which a failure is forgotten, so that one that comes and goes does not fill the log."""
_SLOW: Final = 0.1
_FAST: Final = 0.05
"""Of the period it would come back to; well below `_SLOW`, so that it does not swing."""
_LONGEST_PERIOD: Final = 600.0
_TOLERANCE: Final = 1e-6  # seconds; sums of intervals as floats fall short of a tick by less


class Cost(NamedTuple):
    """What a source has cost so far.

    Attributes:
        samples: Calls, failed ones included.
        wall: Seconds in all.
        longest: Seconds of the longest call.
    """

    samples: int = 0
    wall: float = 0.0
    longest: float = 0.0

    def plus(self, wall: float) -> Cost:
        """With one more call."""
        return Cost(self.samples + 1, self.wall + wall, max(self.longest, wall))


class Guarded:
    """One source, with what it takes to live with it.

    Args:
        source: The source.
        log: Where operators read.
        interval: Seconds between the sampler's ticks.
        clock: Monotonic seconds.

    Attributes:
        source: The source.
        cost: What it has cost.
        quiet: It failed, or is missing, and waits to be sampled again.
        stretch: How many times less often than it should it is sampled, being slow.
        period: Seconds between two samples of this source, as things are.

    Not thread-safe.
    """

    def __init__(
        self,
        source: Source,
        log: Log,
        *,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source, self._log, self._clock = source, log, clock
        self._interval = interval
        self.period = max(source.every, interval)
        self.cost = Cost()
        self.quiet = False
        self.stretch = 1
        self._due_at = float("-inf")
        self._pause = 0.0
        self._successes = 0
        self._slow_in_a_row = 0
        self._slow_reported_at = float("-inf")
        self._slow_reported = False
        # Once more after each failure: a GPU's driver may come back in another version.
        self._fresh_tags = True

    @property
    def name(self) -> str:
        """The source's."""
        return self.source.name

    def due(self, now: float) -> bool:
        """Whether it is this source's turn at the tick `now`."""
        return now >= self._due_at - _TOLERANCE

    def sample(self, tick: float) -> dict[str, float] | None:
        """Samples the source, whatever it does; None when it has no answer.

        Args:
            tick: When it was due: the next time is counted from there, so lateness does not add up.
        """
        begun = self._clock()
        values: dict[str, float] | None = None
        problem: Exception | None = None
        try:
            # `begun` and not `tick`: rates are over the time that has really passed.
            values = self.source.sample(begun)
        except Exception as error:  # noqa: BLE001 - whatever happens in a source, the others go on; it is logged
            problem = error
        wall = self._clock() - begun
        self.cost = self.cost.plus(wall)
        # Also of a call that failed: one that hangs until its own time-out costs the same.
        if wall > _SLOW * self.period or self.stretch > 1 or self._slow_in_a_row:
            self._pace(wall, tick)
        if problem is not None:
            self._failed(tick, problem)
            return None
        if self._pause:
            self._worked()
        # One that is due at every tick is so even where two ticks come close to each other.
        self._due_at = tick + (self.period if self.period > self._interval else 0.0)
        return values

    @property
    def has_tags(self) -> bool:
        """Whether `tags` would call the source."""
        return self._fresh_tags and not self.quiet

    def tags(self) -> dict[str, str]:
        """The source's tags, once after it began to work, and once each time it works again."""
        if not self.has_tags:
            return {}
        self._fresh_tags = False
        try:
            return self.source.tags()
        except Exception as error:  # noqa: BLE001 - as in `sample`
            self._log.warning("system monitor: a source has no tags", source=self.name, error=repr(error))
            return {}

    def totals(self) -> dict[str, float]:
        """The source's totals, or nothing."""
        try:
            return self.source.totals()
        except Exception as error:  # noqa: BLE001 - as in `sample`
            self._log.warning("system monitor: a source has no totals", source=self.name, error=repr(error))
            return {}

    def close(self) -> None:
        """Closes the source."""
        try:
            self.source.close()
        except Exception as error:  # noqa: BLE001 - as in `sample`
            self._log.warning("system monitor: a source did not close", source=self.name, error=repr(error))

    def _failed(self, tick: float, error: Exception) -> None:
        self._successes = 0
        self._pause = min(_LONGEST_PAUSE, self._pause * 2 or _FIRST_PAUSE)
        self._due_at = tick + max(self._pause, self.period)  # a slow source's period may be the longer one
        if self.quiet:
            return
        self.quiet = self._fresh_tags = True
        if isinstance(error, SourceGone):
            self._log.info("system monitor: not on this machine", source=self.name, reason=str(error))
        else:
            self._log.warning("system monitor: a source failed, and is left out", source=self.name, error=repr(error))

    def _worked(self) -> None:
        self._successes += 1
        # One success heals nothing: a source that fails now and then keeps its pause.
        if self._successes >= _HEALED:
            self._pause = 0.0
        if self.quiet:
            self.quiet = False
            self._log.info("system monitor: a source is back", source=self.name)

    def _pace(self, wall: float, tick: float) -> None:
        """Stretches the period of a slow source and shortens that of one that has become fast."""
        if wall > _SLOW * self.period:
            self._slow_in_a_row += 1
            # One hiccup on a busy machine does not count, unless it costs whole ticks.
            if (self._slow_in_a_row > 1 or wall > self._interval) and self.period * 2 <= _LONGEST_PERIOD:
                self._stretch_to(self.stretch * 2)
                self._report_slow(wall, tick)
            return
        self._slow_in_a_row = 0
        if self.stretch > 1 and wall <= _FAST * self.period / 2:
            self._stretch_to(self.stretch // 2)
            if self.stretch == 1 and self._slow_reported:
                self._slow_reported = False
                self._log.info("system monitor: a slow source is fast again", source=self.name)

    def _stretch_to(self, stretch: int) -> None:
        self.stretch = stretch
        self.period = max(self.source.every, self._interval) * stretch

    def _report_slow(self, wall: float, tick: float) -> None:
        # One that wavers around the limit would fill the log.
        if self._slow_reported or tick - self._slow_reported_at < _LONGEST_PAUSE:
            return
        self._slow_reported, self._slow_reported_at = True, tick
        self._log.warning(
            "system monitor: a source is slow, and is asked less often", source=self.name, seconds=round(wall, 3)
        )
