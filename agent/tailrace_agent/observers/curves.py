"""The courses of all metrics of a session's runs, as they pass through the drain. Knows nothing of who reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tailrace_agent.ipc.curves import Curve
from tailrace_agent.text.directions import is_of_another

__all__ = ["Curves"]

_MOST_OF_RUN: Final = 1_000
_MOST: Final = 2_000
"""Curves; each takes 6 KB at most."""


class Curves:
    """Remembers.

    Attributes:
        left_out: Metrics that found no room, by run.
        versions: How often a run's curves have changed, by run.

    Not thread-safe: the drain's thread calls everything.
    """

    def __init__(self) -> None:
        self.left_out: dict[int, set[str]] = {}
        self.versions: dict[int, int] = {}
        self._new: dict[int, dict[str, list[tuple[int, int, float]]]] = {}
        self._runs: dict[int, dict[str, Curve]] = {}
        self._size = 0

    def saw(self, run: int, step: int, time_ns: int, values: Mapping[str, float]) -> None:
        """A row passes by."""
        new = self._new.get(run)
        if new is None:
            new = self._new[run] = {}
        for key, value in values.items():
            points = new.get(key)
            if points is None:
                new[key] = [(step, time_ns, float(value))]
            else:
                points.append((step, time_ns, float(value)))

    def take_in(self) -> dict[int, dict[str, Curve]]:
        """Draws what was seen since the last call; the curves that it has changed."""
        new, self._new = self._new, {}
        changed: dict[int, dict[str, Curve]] = {}
        for run, points_of in new.items():
            self.versions[run] = self.versions.get(run, 0) + 1
            for key, points in points_of.items():
                if not is_of_another(key) and (curve := self._curve(run, key)) is not None:
                    curve.add(points)
                    changed.setdefault(run, {})[key] = curve
        return changed

    def of(self, run: int) -> Mapping[str, Curve]:
        """A run's curves, in the order in which its metrics came."""
        return self._runs.get(run, {})

    def keep_only(self, runs: Iterable[int]) -> None:
        """Forgets all other runs."""
        for run in self._runs.keys() - set(runs):
            self._size -= len(self._runs.pop(run))
            self.left_out.pop(run, None)
            self.versions.pop(run, None)

    def _curve(self, run: int, key: str) -> Curve | None:
        known = self._runs.setdefault(run, {})
        if key not in known:
            if len(known) >= _MOST_OF_RUN or self._size >= _MOST:
                left_out = self.left_out.setdefault(run, set())
                if len(left_out) < _MOST:
                    left_out.add(key)
                return None
            self._size += 1
            known[key] = Curve()
        return known[key]
