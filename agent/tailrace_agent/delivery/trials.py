"""Whose fault it is that something does not get through: its own, or that of the store.

A store that is away takes nothing, and a refusal then is no evidence about what was offered. So a failure counts
against an item only if the store has taken something else since the item's failure before. What fails `DEADLY` times
like that will never get through.

Pure: times are passed in, monotonic seconds. Not thread-safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from tailrace_agent.retry import Backoff

__all__ = ["DEADLY", "Trials"]

DEADLY: Final = 5
"""Failures of an item by itself after which it is given up."""


_ALONE: Final = 4.0
"""Longest pause in seconds between two failures by itself: the store works, so there is nothing to spare."""


class _Trial:
    """An item that has failed: how often in all, how often by itself, and when it may be tried again."""

    def __init__(self, cap: float, counted: int) -> None:
        # Two paces: a store that is away is spared, while an item at fault by itself is soon found out.
        self._with_others, self._alone = Backoff(cap=cap), Backoff(cap=min(cap, _ALONE))
        self.failures, self.counted = 0, counted
        self.ready_at = 0.0
        self.successes = 0

    def failed(self, now: float, retry_after: float | None, *, alone: bool) -> float:
        self.failures += 1
        self.counted += alone
        self.ready_at = (self._alone if alone else self._with_others).failed(now, retry_after)
        return self.ready_at


class Trials:
    """The items that have failed and still wait.

    Args:
        cap: Longest pause between two tries of one item in seconds.
        counted: Failures by itself of each item, as an earlier agent has counted them.

    Example:
        >>> trials = Trials(cap=30.0)
        >>> _ = trials.failed(7, now=0.0)  # perhaps the store is away
        >>> trials.worked(8)
        >>> _ = trials.failed(7, now=1.0)  # it is not: 8 got through
        >>> trials.counted(7)
        1
    """

    def __init__(self, cap: float, counted: Mapping[int, int] | None = None) -> None:
        self._cap = cap
        self._trials: dict[int, _Trial] = {}
        self._successes = 0
        for item, n in (counted or {}).items():
            self._trials[item] = _Trial(cap, n)  # ready at once: the pauses of an earlier agent are not kept

    def failed(self, item: int, now: float, retry_after: float | None = None, *, blameless: bool = False) -> float:
        """Notes a failure; when the item may be tried again. A `blameless` one never counts."""
        trial = self._trials.get(item)
        alone = trial is not None and self._successes > trial.successes and not blameless
        if trial is None:
            trial = self._trials[item] = _Trial(self._cap, 0)
        # Only what the store takes after this failure is evidence against the item at its next one.
        trial.successes = self._successes
        return trial.failed(now, retry_after, alone=alone)

    def worked(self, item: int | None = None) -> None:
        """The store has taken an item, or something else."""
        self._successes += 1
        if item is not None:
            self._trials.pop(item, None)

    def forget(self, item: int) -> None:
        """The item does not wait any more."""
        self._trials.pop(item, None)

    def failures(self, item: int) -> int:
        """How often it has failed since this agent began."""
        trial = self._trials.get(item)
        return trial.failures if trial is not None else 0

    def counted(self, item: int) -> int:
        """How often it has failed by itself."""
        trial = self._trials.get(item)
        return trial.counted if trial is not None else 0

    def resting(self, now: float) -> set[int]:
        """Items that may not be tried yet."""
        return {item for item, trial in self._trials.items() if trial.ready_at > now}

    def next_ready(self, items: Iterable[int]) -> float:
        """When the first of these items may be tried again."""
        return min((self._trials[item].ready_at for item in items if item in self._trials), default=math.inf)
