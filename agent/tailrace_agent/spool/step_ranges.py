"""Which steps there were, in little room: a training counts them, so that those equally far apart are one range."""

from __future__ import annotations

from typing import Final

__all__ = ["StepRanges"]

_MOST: Final = 1000
"""Ranges that are kept; of steps without any order the oldest are forgotten."""


class StepRanges:
    """A set of steps.

    Args:
        ranges: As `stored` has given them: the first of each, the last, and how far apart they are.

    Not thread-safe.

    Example:
        >>> steps = StepRanges()
        >>> for step in (0, 10, 20, 7):
        ...     steps.add(step)
        >>> 10 in steps, 11 in steps, steps.stored
        (True, False, [[0, 20, 10], [7, 7, 1]])
    """

    def __init__(self, ranges: list[list[int]] | None = None) -> None:
        self._ranges = [list(each) for each in ranges or ()]

    def add(self, step: int) -> None:
        """From now on it is one of them."""
        if self._ranges:
            newest = self._ranges[-1]
            if newest[0] == newest[1] < step:
                newest[1], newest[2] = step, step - newest[0]
                return
            if step == newest[1] + newest[2]:
                newest[1] = step
                return
        self._ranges.append([step, step, 1])
        del self._ranges[:-_MOST]

    def __contains__(self, step: int) -> bool:
        return any(
            first <= step <= last and not (step - first) % apart for first, last, apart in reversed(self._ranges)
        )

    @property
    def stored(self) -> list[list[int]]:
        """The ranges."""
        return [list(each) for each in self._ranges]
