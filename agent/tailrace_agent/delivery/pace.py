"""How often a store is asked, and with how much at once, by several threads that ask at the same time.

* What is under way when a store fails counts for nothing afterwards: its failures are the same one, and its successes
  are older than what the store has said since (a `Retry-After`, say).
* A store that was away, or is too slow for full requests, is asked by one thread alone until it is not.

Thread safety: every method from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tailrace_agent.retry import Backoff, Portion

__all__ = ["Pace", "Turn"]


class Pace:
    """The pace of one store.

    Args:
        longest: Longest pause between tries in seconds.
        least: What a request may always carry.
        recovered: Called when the store works again, with the number of tries that had failed in a row.

    Example:
        >>> pace = Pace(longest=30.0, least=25, recovered=print)
        >>> one, other = pace.turn(), pace.turn()
        >>> at = one.failed(now=100.0)
        >>> other.failed(now=100.0) == at, pace.failures
        (True, 1)
        >>> pace.turn().worked()
        1
    """

    def __init__(self, longest: float, least: int, recovered: Callable[[int], None]) -> None:
        self._lock, self._recovered = threading.Lock(), recovered
        self._backoff, self._portion = Backoff(cap=longest), Portion(least)
        self._failed = 0  # how often, in all

    def turn(self) -> Turn:
        """Somebody begins to ask."""
        return Turn(self, self._failed)

    @property
    def failures(self) -> int:
        """Failed tries in a row."""
        return self._backoff.failures

    @property
    def ready_at(self) -> float:
        """When the store may be asked again (monotonic seconds)."""
        return self._backoff.ready_at

    @property
    def by_one(self) -> bool:
        """Whether nobody is to ask beside another."""
        return self._backoff.failures > 0 or self._portion.reduced

    def portion(self, limit: int) -> int:
        """How much of `limit` one request may carry."""
        with self._lock:
            return self._portion.of(limit)

    def rest(self) -> None:
        """There is nothing with which to find out whether the store is there again."""
        with self._lock:
            self._backoff.worked()

    def worked(self, since: int) -> None:
        """A request was answered."""
        with self._lock:
            failures = self._backoff.failures if since == self._failed else 0
            if failures:
                self._backoff.worked()
        if failures:
            self._recovered(failures)

    def failed(self, since: int, now: float, retry_after: float | None) -> float:
        """The store is away, or at its limit; when to try again."""
        with self._lock:
            if since == self._failed:
                self._failed += 1
                return self._backoff.failed(now, retry_after)
            return self._backoff.put_off(now, retry_after)

    def carried(self, n: int, limit: int, *, too_much: bool) -> None:
        """A request of `n` metrics was answered, or was too much for the store."""
        with self._lock:
            if not too_much:
                self._portion.worked(limit)
            elif n <= self._portion.of(limit):  # else it is smaller by now, for what another one carried
                self._portion.too_much(limit)


class Turn:
    """Requests that somebody makes one after another; see `Pace`."""

    def __init__(self, pace: Pace, since: int) -> None:
        self._pace, self._since = pace, since

    def worked(self) -> None:
        """A request was answered."""
        self._pace.worked(self._since)

    def failed(self, now: float, retry_after: float | None = None) -> float:
        """The store is away, or at its limit; when to try again (monotonic seconds)."""
        return self._pace.failed(self._since, now, retry_after)
