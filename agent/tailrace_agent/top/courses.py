"""A metric's course, cut to a window and thinned to columns; smallest and largest values are kept. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tailrace_agent.ipc.curves import Curve, Drawn, Span

__all__ = ["Column", "Course", "course_of", "course_of_points", "smoothed", "thinned", "within"]


class Course(NamedTuple):
    """One metric of one run.

    Attributes:
        line: By step.
        last: Its last value; None where there is none.
        last_step: The step of that.
        low: Smallest value and its step.
        high: Largest value and its step.
    """

    line: Sequence[Span]
    last: float | None = None
    last_step: int = 0
    low: tuple[float, int] | None = None
    high: tuple[float, int] | None = None


class Column(NamedTuple):
    """What is drawn in one column of dots."""

    at: int
    low: float
    high: float
    last: float


def course_of(drawn: Drawn) -> Course:
    """The course that an agent has published."""
    last_step, _, last = drawn.last or (0, 0, None)
    return Course(drawn.line, last, last_step, drawn.low, drawn.high)


def course_of_points(points: Sequence[tuple[int, int, float]]) -> Course:
    """The course of points: step, time in nanoseconds, value."""
    if not points:
        return Course([])
    curve = Curve()
    curve.add(points)
    return course_of(curve.drawn)


def within(line: Sequence[Span], first: float, last: float) -> Sequence[Span]:
    """The spans whose steps are in a window, and one more on each side, so that lines reach its edges."""
    begin = bisect_left(line, first, key=lambda span: span.step)
    end = bisect_right(line, last, key=lambda span: span.step)
    return line[max(0, begin - 1) : end + 1]


def thinned(line: Sequence[Span], first: float, last: float, columns: int) -> list[Column]:
    """At most one column for each dot; of the spans that share one, the smallest, the largest and the last value.

    Example:
        >>> thinned([Span(0, 1.0, 1.0, 1.0), Span(1, 5.0, 5.0, 5.0), Span(2, 0.0, 0.0, 0.0)], 0, 2, 1)
        [Column(at=0, low=0.0, high=5.0, last=0.0)]
    """
    found: list[Column] = []
    scale = (columns - 1) / (last - first) if last > first else 0.0
    for span in line:
        at = round((span.step - first) * scale)
        if found and found[-1].at == at:
            before = found[-1]
            found[-1] = Column(at, min(before.low, span.low), max(before.high, span.high), span.last)
        else:
            found.append(Column(at, span.low, span.high, span.last))
    return found


def smoothed(line: Sequence[Span], weight: float) -> Iterator[Span]:
    """An exponential moving average, without the pull of its beginning; what is no number is passed over.

    Args:
        line: By step.
        weight: Of what was before, from 0 to below 1.

    Example:
        >>> [round(span.last, 2) for span in smoothed([Span(0, 1, 1, 1.0), Span(1, 0, 0, 0.0)], 0.5)]
        [1.0, 0.33]
    """
    total, share = 0.0, 0.0
    for span in line:
        if math.isfinite(span.last):
            total = weight * total + (1 - weight) * span.last
            share = weight * share + (1 - weight)
            value = total / share
            yield Span(span.step, value, value, value)
