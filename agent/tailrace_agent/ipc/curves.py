"""A metric's course in bounded room: its last value, its smallest and its largest, and a line that keeps every peak.

What the agent keeps of each metric for those who look on: the live view, the card in a notebook, the summary at a run's
end. A line has at most `SPANS` spans of steps, each with its smallest, largest and last value. Where the steps have
outgrown it, two neighbours become one: the line is coarser then, and loses no peak.

Taking in the same points twice changes nothing, so a drain that is done again does no harm. NaN is a last value, and
neither the smallest nor the largest.

Pure; no I/O.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

import msgspec

__all__ = ["SPANS", "At", "Curve", "Drawn", "Point", "Span", "telling"]

SPANS: Final = 256
"""Most spans of a line: a chart of 128 columns of braille has twice as many dots."""
_NAN: Final = math.nan
Point = tuple[int, int, float]
"""Step, time in nanoseconds, value."""


class At(NamedTuple):
    """A value, and the step at which it was logged."""

    value: float
    step: int


class Span(NamedTuple):
    """Some neighbouring steps of a line.

    Attributes:
        step: The first of them that it may hold.
        low: Smallest value.
        high: Largest value.
        last: The value of its last step.
    """

    step: int
    low: float
    high: float
    last: float


class Drawn(msgspec.Struct, array_like=True, frozen=True):
    """A curve as it is handed from process to process on one machine.

    Attributes:
        width: Steps of one span.
        first: Number of the first span: it begins at step `first * width`.
        last: As `Curve.last`.
        low: As `Curve.low`.
        high: As `Curve.high`.
        lows: Smallest values of the spans, doubles in the machine's order; NaN where a span has no value.
        highs: The largest, likewise.
        lasts: The last, likewise.
    """

    width: int
    first: int
    last: Point | None
    low: tuple[float, int] | None
    high: tuple[float, int] | None
    lows: bytes
    highs: bytes
    lasts: bytes

    @property
    def line(self) -> list[Span]:
        """The line, by step; spans without a value are left out."""
        size = len(self.lows) // 8 * 8  # whatever its bytes are
        lines = (array("d", each[:size]) for each in (self.lows, self.highs, self.lasts))
        return [
            Span((self.first + n) * self.width, low, high, last)
            for n, (low, high, last) in enumerate(zip(*lines, strict=False))
            if low == low  # noqa: PLR0124 - no NaN
        ]


class Curve:
    """One metric's course.

    Attributes:
        last: Step, time (nanoseconds) and value of the last point, in MLflow's order: by step, time, value.
        low: The smallest value and the first step that had it; None where there was nothing but NaN.
        high: The largest, likewise.
        width: Steps of one span; a power of two.

    Args:
        spans: Most spans of its line.

    Not thread-safe.

    Example:
        >>> curve = Curve()
        >>> curve.add([(0, 10, 0.5), (1, 20, 0.25)])
        >>> curve.low, curve.last
        (At(value=0.25, step=1), (1, 20, 0.25))
    """

    __slots__ = ("_first", "_highs", "_lasts", "_lows", "_spans", "high", "last", "low", "width")

    def __init__(self, spans: int = SPANS) -> None:
        self._spans = spans
        self.width = 1
        self.last: Point | None = None
        self.low: At | None = None
        self.high: At | None = None
        self._first = 0
        self._lows, self._highs, self._lasts = array("d"), array("d"), array("d")

    @classmethod
    def of(cls, drawn: Drawn) -> Curve:
        """The curve that was handed on.

        Raises:
            ValueError: It is none that a curve hands on.
        """
        curve, size = cls(), len(drawn.lows) // 8
        if drawn.width < 1 or size > SPANS or {len(drawn.lows), len(drawn.highs), len(drawn.lasts)} != {size * 8}:
            raise ValueError("it is no curve")
        curve.width, curve._first, curve.last = drawn.width, drawn.first, drawn.last
        curve.low, curve.high = (At(*at) if at is not None else None for at in (drawn.low, drawn.high))
        for line, values in (
            (curve._lows, drawn.lows),
            (curve._highs, drawn.highs),
            (curve._lasts, drawn.lasts),
        ):
            line.frombytes(values)
        return curve

    def add(self, points: Iterable[Point]) -> None:
        """Takes in points: step, time in nanoseconds, value."""
        ordered = sorted(points)
        if not ordered:
            return
        if self.last is None or ordered[-1] >= self.last:
            self.last = ordered[-1]
        steps = [step for step, _, value in ordered if value == value]  # noqa: PLR0124 - NaN alone differs from itself
        values = [value for _, _, value in ordered if value == value]  # noqa: PLR0124
        if not values:
            return
        smallest, largest = min(values), max(values)
        # The first of equals is that of the smallest step.
        low, high = At(smallest, steps[values.index(smallest)]), At(largest, steps[values.index(largest)])
        if self.low is None or low < self.low:
            self.low = low
        if self.high is None or (high.value, -high.step) > (self.high.value, -self.high.step):
            self.high = high
        at = 0
        while at < len(steps):  # once for each span, not for each point
            span = steps[at] // self.width
            upto = bisect_left(steps, (span + 1) * self.width, at)
            if (n := self._place(span)) is None:
                self._coarsen()
                continue
            self._draw(n, min(values[at:upto]), max(values[at:upto]), values[upto - 1])
            at = upto

    @property
    def line(self) -> list[Span]:
        """The line, by step; spans without a value are left out."""
        spans = zip(self._lows, self._highs, self._lasts, strict=True)
        return [
            Span((self._first + n) * self.width, low, high, last)
            for n, (low, high, last) in enumerate(spans)
            if not math.isnan(low)
        ]

    @property
    def drawn(self) -> Drawn:
        """The curve, to be handed on."""
        return Drawn(
            self.width,
            self._first,
            self.last,
            self.low,
            self.high,
            self._lows.tobytes(),
            self._highs.tobytes(),
            self._lasts.tobytes(),
        )

    def _draw(self, n: int, low: float, high: float, last: float) -> None:
        if not math.isnan(self._lows[n]):
            low, high = min(self._lows[n], low), max(self._highs[n], high)
        self._lows[n], self._highs[n], self._lasts[n] = low, high, last

    def _place(self, at: int) -> int | None:
        """Where a span is in the line, which grows for it; None where it would grow too long."""
        size = len(self._lows)
        if not size:
            self._first = at
        n = at - self._first
        if 0 <= n < size:
            return n
        before, behind = max(0, -n), max(0, n + 1 - size)
        if size + before + behind > self._spans:
            return None
        if before:
            self._first = at
            self._lows, self._highs, self._lasts = (
                array("d", [_NAN] * before) + line for line in (self._lows, self._highs, self._lasts)
            )
        for line in (self._lows, self._highs, self._lasts):
            line.extend([_NAN] * behind)
        return n + before

    def _coarsen(self) -> None:
        spans = self.line
        self.width *= 2
        self._lows, self._highs, self._lasts = array("d"), array("d"), array("d")
        for span in spans:
            n = self._place(span.step // self.width)
            assert n is not None  # half as many as there were
            self._draw(n, span.low, span.high, span.last)


def telling(points: Iterable[Point], width: int) -> list[Point]:
    """Of some points those that draw a curve as all of them do: at most three of each span, and the last.

    Args:
        points: Any.
        width: That of the curve which has taken them in.

    Example:
        >>> telling([(step, step, float(step)) for step in range(1000)], 512)
        [(0, 0, 0.0), (511, 511, 511.0), (512, 512, 512.0), (999, 999, 999.0)]
    """
    ordered = sorted(points)
    if len(ordered) <= 3:
        return ordered
    kept = {ordered[-1]}
    numbers = (point for point in ordered if point[2] == point[2])  # NaN alone differs from itself
    for _, span in groupby(numbers, lambda point: point[0] // width):
        each = list(span)
        # The first of equals is that of the smallest step.
        kept |= {min(each, key=itemgetter(2)), max(each, key=itemgetter(2)), each[-1]}
    return sorted(kept)
