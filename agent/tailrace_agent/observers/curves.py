"""The courses of all metrics of a session's runs, as they pass through the drain. Knows nothing of who reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Final

from tailrace_agent.ipc.curves import Curve, Point
from tailrace_agent.observers.curve_journal import CurveJournal, Kept
from tailrace_agent.text.directions import is_of_another

__all__ = ["Curves"]

_MOST_OF_RUN: Final = 1_000
_MOST: Final = 2_000
"""Curves; each takes 6 KB at most."""
_MOST_LEFT_OUT: Final = 2_000
"""Names of a run that are remembered; beyond that any that is new may be one of them."""


class Curves:
    """Remembers.

    Args:
        journal: Where it is written down for an agent that follows.

    Attributes:
        left_out: Metrics that found no room, by run. They stay so: a curve that began later would not be of the whole.
        versions: How often a run's curves have changed, by run.

    Not thread-safe: the drain's thread calls everything.
    """

    def __init__(self, journal: CurveJournal | None = None) -> None:
        self._journal = journal
        self.left_out: dict[int, set[str]] = {}
        self.versions: dict[int, int] = {}
        self._new: dict[int, dict[str, list[Point]]] = {}
        self._runs: dict[int, dict[str, Curve]] = {}
        self._size = 0

    def resume(self, runs: Container[int]) -> None:
        """Draws what an earlier agent has written down of these runs."""
        if self._journal is None:
            return
        for kept in self._journal.read():
            if kept.run in runs:
                self._resume(kept)
        self._journal.replace(self._kept())

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
        if changed and self._journal is not None and self._journal.note(changed, new):
            self._journal.replace(self._kept())
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

    def close(self) -> None:
        """The agent ends."""
        if self._journal is not None:
            self._journal.close(remove=not self._runs)

    def _curve(self, run: int, key: str) -> Curve | None:
        known = self._runs.setdefault(run, {})
        if key not in known:
            left_out = self.left_out.get(run, ())
            full = len(known) >= _MOST_OF_RUN or self._size >= _MOST
            if full or key in left_out or len(left_out) >= _MOST_LEFT_OUT:
                left_out = self.left_out.setdefault(run, set())
                if len(left_out) < _MOST_LEFT_OUT:
                    left_out.add(key)
                return None
            self._size += 1
            known[key] = Curve()
        return known[key]

    def _resume(self, kept: Kept) -> None:
        self.versions[kept.run] = 1
        if kept.left_out:
            self.left_out.setdefault(kept.run, set()).update(kept.left_out)
        for key, drawn in kept.drawn.items():
            if self._curve(kept.run, key) is not None:
                with contextlib.suppress(ValueError):  # another version's, whatever it means by that
                    self._runs[kept.run][key] = Curve.of(drawn)
        for key, points in kept.points.items():
            if (curve := self._curve(kept.run, key)) is not None:
                curve.add(points)

    def _kept(self) -> Iterator[Kept]:
        for run, curves in self._runs.items():
            drawn = {key: curve.drawn for key, curve in curves.items()}
            yield Kept(run, drawn, left_out=list(self.left_out.get(run, ())))
