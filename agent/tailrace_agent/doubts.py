"""What became of requests whose answers were lost: told from a run's latest metrics, so that nothing is sent twice.

Why not send it again: MLflow keeps one row for both, but it looks for the rows that it has already in a time that grows
with the run (on SQLite 27 s for a request of 1,000 in a run of a million points, MLflow 3.17.2). That is longer than
any time-out in the end, so each answer would be lost again, for ever.

What this module promises:

* A point is taken as stored on proof only. Of a key of which something was acknowledged before, a point that MLflow
  would order behind all of that can be there by one of the unanswered requests alone. A request fits what MLflow
  says when that holds for all such keys in it; stored is what all requests that fit have in common.
* What cannot be told (steps that go back, a run's first request, a new agent) is sent again, as ever.
* It rests on requests that the store takes whole or not at all, as MLflow's SQL stores do.

Pure: the asking is `delivery`'s. Not thread-safe.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tailrace_agent.records import Point

__all__ = ["Doubts", "Rank", "rank_of"]

_MOST: Final = 32
"""Unanswered requests of one batch that are remembered; beyond them nothing is told any more until one is answered."""


class Rank(NamedTuple):
    """How MLflow orders the points of one key: the largest is the latest metric."""

    step: int
    timestamp: int
    value: float


def rank_of(step: int, timestamp: int, value: float) -> Rank:
    """A point's rank, its value as MLflow's databases keep it: NaN as 0, infinities as the largest double."""
    if math.isnan(value):
        value = 0.0
    elif math.isinf(value):
        value = math.copysign(sys.float_info.max, value)
    return Rank(step, timestamp, value)


class Doubts:
    """The doubts about one run's metrics.

    Example:
        >>> doubts = Doubts()
        >>> doubts.accepted([Point("loss", 0.5, 1000, 1)]); doubts.settled()
        >>> doubts.unanswered([Point("loss", 0.4, 1001, 2)])
        >>> doubts.look({"loss": rank_of(2, 1001, 0.4)})
        >>> doubts.left([Point("loss", 0.4, 1001, 2), Point("loss", 0.3, 1002, 3)])
        [Point(key='loss', value=0.3, timestamp=1002, step=3)]
    """

    def __init__(self) -> None:
        self._latest: dict[str, Rank] = {}
        self._asked: list[Sequence[Point]] = []
        self._accepted: list[Sequence[Point]] = []
        self._stored: set[tuple[object, ...]] = set()

    @property
    def open(self) -> bool:
        """Whether a look at the run's latest metrics could tell anything."""
        return len(self._asked) <= _MOST and any(map(self._telling, self._asked))

    def accepted(self, points: Sequence[Point]) -> None:
        """The store has answered that it has these; they are not in the spool's books yet."""
        self._accepted.append(points)
        for key, rank in _largest(points).items():
            self._latest[key] = max(rank, self._latest.get(key, rank))

    def unanswered(self, points: Sequence[Point]) -> None:
        """A request with these is without an answer; the store may have it, or get it yet."""
        if len(self._asked) <= _MOST and points not in self._asked:
            self._asked.append(list(points))

    def look(self, latest: Mapping[str, Rank]) -> None:
        """Takes note of the run's latest metrics."""
        fitting = [points for points in self._asked if self._fits(points, latest)]
        if fitting:
            common = set.intersection(*(set(map(_mark, points)) for points in fitting))
            self._stored |= common

    def left(self, points: Iterable[Point]) -> list[Point]:
        """Those of which it is not known that the store has them."""
        if not self._stored and not self._accepted:
            return list(points)
        stored = self._stored.union(_mark(point) for part in self._accepted for point in part)
        return [point for point in points if _mark(point) not in stored]

    def settled(self) -> None:
        """What was stored is in the spool's books now."""
        self._asked.clear()
        self._accepted.clear()
        self._stored.clear()

    def _fits(self, points: Sequence[Point], latest: Mapping[str, Rank]) -> bool:
        telling = self._telling(points)
        return bool(telling) and all(latest.get(key) == rank for key, rank in telling.items())

    def _telling(self, points: Sequence[Point]) -> dict[str, Rank]:
        """The largest of each key that can only have come with such a request."""
        largest = _largest(points).items()
        return {key: rank for key, rank in largest if key in self._latest and rank > self._latest[key]}


def _largest(points: Iterable[Point]) -> dict[str, Rank]:
    largest: dict[str, Point] = {}
    for point in points:
        other = largest.get(point[0])
        if other is None or _is_larger(point, other):
            largest[point[0]] = point
    return {key: rank_of(point.step, point.timestamp, point.value) for key, point in largest.items()}


def _is_larger(point: Point, other: Point) -> bool:
    if point[3] != other[3]:
        return point[3] > other[3]
    return rank_of(point.step, point.timestamp, point.value) > rank_of(other.step, other.timestamp, other.value)


def _mark(point: Point) -> tuple[object, ...]:
    return (point.key, *rank_of(point.step, point.timestamp, point.value), math.isnan(point.value))
