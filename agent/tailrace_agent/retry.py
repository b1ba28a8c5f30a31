"""When to try again, and with how much at once, as pure objects.

The pauses are full-jitter exponential backoff that keeps `Retry-After`; requests shrink while they are too much for the
store: too slow to be answered in time, or too large for it.

Full jitter (a uniform draw between zero and the cap) spreads the clients of a server that comes back better than any
fixed or lightly jittered schedule: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015. A floor
keeps a lucky draw from hammering.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final

__all__ = ["IDLE", "LONGEST", "Backoff", "Portion", "kept_wait"]

IDLE: Final = 3600.0
"""Seconds until whoever has nothing to do looks again, though nobody has woken him."""
LONGEST: Final = 3600.0
"""Seconds that somebody else may make us wait."""


def kept_wait(seconds: float | None) -> float | None:
    """A wait that a server has requested, as far as it is kept: an hour at most, and None for what is no time at all.

    Example:
        >>> kept_wait(60), kept_wait(1e300), kept_wait(-1), kept_wait(float("inf"))
        (60, 3600.0, 0.0, None)
    """
    return None if seconds is None or not math.isfinite(seconds) else min(LONGEST, max(0.0, seconds))


class Backoff:
    """The state of one destination: works, or waits until `ready_at`.

    Args:
        base: Cap of the first wait in seconds; doubles with each failure.
        cap: Largest wait in seconds, `Retry-After` excepted.
        uniform: `random.uniform`, or a stand-in.

    Example:
        >>> backoff = Backoff(base=1, cap=8, uniform=lambda low, high: high)
        >>> backoff.failed(now=100.0), backoff.failed(now=101.0)
        (101.0, 103.0)
        >>> backoff.failed(now=103.0, retry_after=60)
        163.0

    Times are monotonic seconds, so a clock that jumps neither stalls nor heats a retry. Not thread-safe.
    """

    FLOOR = 0.1  # seconds

    def __init__(
        self, base: float = 0.5, cap: float = 30.0, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._base, self._cap, self._uniform = base, cap, uniform
        self.failures = 0
        self.ready_at = 0.0

    def failed(self, now: float, retry_after: float | None = None) -> float:
        """Notes a failure; when to try again."""
        # The exponent is bounded: after a thousand failures the power would be beyond any float.
        ceiling = min(self._cap, self._base * 2 ** min(self.failures, 30))
        self.failures += 1
        wait = max(min(self.FLOOR, ceiling), self._uniform(0, ceiling))
        # A server that knows when it is back is believed, but never for less than our own pause.
        self.ready_at = now + max(wait, kept_wait(retry_after) or 0.0)
        return self.ready_at

    def put_off(self, now: float, retry_after: float | None) -> float:
        """Notes that a failure which is known by now came with a wait of its own; when to try again."""
        self.ready_at = max(self.ready_at, now + (kept_wait(retry_after) or 0.0))
        return self.ready_at

    def worked(self) -> None:
        """Notes a success: no wait any more."""
        self.failures, self.ready_at = 0, 0.0


class Portion:
    """How much one request may carry: half after one that was too much, the double after several that were not.

    A store that needs longer for a full request than the time-out allows would otherwise never be done: each try is
    given up, and begun anew while the store is still at work on the one before. A proxy that takes no request of that
    size would refuse each of them first. (Additive increase, multiplicative decrease would find the edge more finely:
    D.-M. Chiu, R. Jain, 1989. Here a step is a half, and the edge moves.)

    Args:
        least: It shrinks no further.

    Example:
        >>> portion = Portion(least=250)
        >>> portion.too_much(1000), portion.of(1000)
        (None, 500)

    Not thread-safe.
    """

    PROOF = 8
    """Requests that have to go well before the next is larger."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._most: int | None = None
        self._well = 0

    def of(self, limit: int) -> int:
        """The limit, or less while the store is too slow for it."""
        return limit if self._most is None else min(limit, self._most)

    @property
    def reduced(self) -> bool:
        """Whether the store is too slow for the limit."""
        return self._most is not None

    def too_much(self, limit: int) -> None:
        """Notes a request that was given up, or refused for its size."""
        self._most = max(min(self._least, limit), self.of(limit) // 2)  # a limit below `least` is not raised to it
        self._well = 0

    def worked(self, limit: int) -> None:
        """Notes one that was answered."""
        if self._most is None:
            return
        self._well += 1
        if self._well >= self.PROOF:
            self._well, self._most = 0, self._most * 2
            if self._most >= limit:  # back at the full size: `worked` has nothing to count any more
                self._most = None
