"""A metric's course, cut to a window and thinned to columns; smallest and largest values are kept. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tailrace_agent.ipc.curves import Curve, Drawn, Span

__all__ = ["Column", "Course", "closer", "course_of_points", "smoothed", "thinned", "within"]


class Course:
    """One metric of one run. Two of them are the same only if they are one.

    Args:
        drawn: As its agent has published it.
        line: Another line than that, by step.
        sampled: As the attribute.

    Attributes:
        drawn: The same.
        last: Its last value; None where there is none.
        last_step: The step of that.
        sampled: Whether values between those that are drawn may be smaller or larger.

    Not thread-safe.
    """

    __slots__ = ("_line", "drawn", "last", "last_step", "sampled")

    def __init__(self, drawn: Drawn, line: Sequence[Span] | None = None, *, sampled: bool = False) -> None:
        self.drawn, self.sampled = drawn, sampled
        self.last: float | None = drawn.last[2] if drawn.last is not None else None
        self.last_step = drawn.last[0] if drawn.last is not None else 0
        self._line = line

    @property
    def line(self) -> Sequence[Span]:
        """The line, by step, to its last value; made when it is wanted, since most metrics are not on the screen."""
        if self._line is None:
            line, last = self.drawn.line, self.last
            if line and last is not None and math.isfinite(last) and self.last_step > line[-1].step:
                line.append(Span(self.last_step, last, last, last))
            self._line = line
        return self._line


class Column(NamedTuple):
    """What is drawn in one column of dots."""

    at: int
    low: float
    high: float
    last: float


def course_of_points(points: Sequence[tuple[int, int, float]]) -> Course:
    """The course of points: step, time in nanoseconds, value."""
    curve = Curve()
    if points:
        curve.add(points)
    return Course(curve.drawn)


def closer(course: Course, line: Sequence[Span], *, sampled: bool) -> Course:
    """The course with a part of its line drawn closer; the rest stays as it was.

    Example:
        >>> course = course_of_points([(0, 0, 1.0), (1, 0, 2.0), (2, 0, 3.0)])
        >>> [span.last for span in closer(course, [Span(1, 5.0, 5.0, 5.0)], sampled=False).line]
        [1.0, 5.0, 3.0]
    """
    if not line:
        return course
    first, last = line[0].step, line[-1].step
    before = [span for span in course.line if span.step < first]
    behind = [span for span in course.line if span.step > last]
    return Course(course.drawn, [*before, *line, *behind], sampled=sampled)


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
