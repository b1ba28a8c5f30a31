"""From counters to rates per second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["SHORTEST", "Rates"]

SHORTEST: Final = 0.05
"""Seconds below which no rate is computed: the kernel counts CPU time in steps of 10 ms."""


class Rates:
    """Remembers counters, and answers what each has grown by per second.

    Example:
        >>> rates = Rates()
        >>> rates.update(10.0, {"read": 100.0}), rates.update(12.0, {"read": 104.0})
        ({}, {'read': 2.0})
    """

    def __init__(self) -> None:
        self._at = 0.0
        self._counters: Mapping[str, float] = {}

    def update(self, now: float, counters: Mapping[str, float]) -> dict[str, float]:
        """Growth per second since the last update; without what is new, and what has fallen (it began anew).

        An update that comes too soon for a meaningful rate has no answer, and the next one reaches back over it.
        """
        elapsed = now - self._at
        if self._counters and elapsed < SHORTEST:
            return {}
        # A copy: the caller may go on counting in its own.
        before, self._counters, self._at = self._counters, dict(counters), now
        return {
            name: (counter - before[name]) / elapsed
            for name, counter in counters.items()
            if name in before and counter >= before[name]
        }
