"""When to try again: full-jitter exponential backoff that keeps `Retry-After`, as a pure object.

Full jitter (a uniform draw between zero and the cap) spreads the clients of a server that comes back better than any
fixed or lightly jittered schedule: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015. A floor
keeps a lucky draw from hammering.
"""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]


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

    FLOOR = 0.1

    def __init__(
        self, base: float = 0.5, cap: float = 30.0, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._base, self._cap, self._uniform = base, cap, uniform
        self.failures = 0
        self.ready_at = 0.0

    def failed(self, now: float, retry_after: float | None = None) -> float:
        """Notes a failure; when to try again."""
        ceiling = min(self._cap, self._base * 2 ** min(self.failures, 30))
        self.failures += 1
        wait = max(min(self.FLOOR, ceiling), self._uniform(0, ceiling))
        self.ready_at = now + max(wait, retry_after or 0.0)
        return self.ready_at

    def worked(self) -> None:
        """Notes a success: no wait any more."""
        self.failures, self.ready_at = 0, 0.0
