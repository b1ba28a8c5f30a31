"""A chart of one metric, of one run or of several: a title, lines of braille, and axes. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from tailrace_agent.ipc.curves import Span
from tailrace_agent.top.axes import Scale, figure, scale_of, short, ticks
from tailrace_agent.top.braille import ACROSS, DOWN, Canvas
from tailrace_agent.top.courses import Column, Course, smoothed, thinned, within
from tailrace_agent.top.lines import Line, Piece, columns_of, cut

__all__ = ["LEAST_HEIGHT", "LEAST_WIDTH", "Look", "Plot", "chart", "window"]

LEAST_WIDTH: Final = 24
LEAST_HEIGHT: Final = 5
_FEWEST: Final = 8
"""Steps that a chart shows at least, if there are so many."""


class Plot(NamedTuple):
    """One line of a chart."""

    course: Course
    style: str


class Look(NamedTuple):
    """How charts are drawn.

    Attributes:
        log: Whether the values' axis is logarithmic.
        smooth: Weight of the moving average; 0 draws what was logged.
        first: Where the window begins, as a share of all steps.
        last: Where it ends.
    """

    log: bool = False
    smooth: float = 0.0
    first: float = 0.0
    last: float = 1.0


@lru_cache(maxsize=64)  # most of those that are on the screen are as they were
def chart(
    name: str, plots: tuple[Plot, ...], look: Look, width: int, height: int, *, chosen: bool = False
) -> list[Line]:
    """The chart in exactly that many columns and lines.

    Args:
        name: Of the metric.
        plots: Its lines, the one that is drawn last at the end; its last value is in the title.
        look: How it is drawn.
        width: Columns, `LEAST_WIDTH` at least.
        height: Lines, `LEAST_HEIGHT` at least.
        chosen: Whether its title stands out.
    """
    title = _title(name, plots, width, chosen)
    steps = window(plots, look)
    body = height - 2
    lines = [(plot.style, within(plot.course.line, *steps)) for plot in plots]
    bounds = _bounds([line for _, line in lines], steps, log=look.log)
    if bounds is None:
        text = "nothing above 0" if look.log and any(line for _, line in lines) else "no values yet"
        return [title, *([[Piece(cut(f"  {text}" if n == 0 else "", width), "dim")] for n in range(body + 1)])]
    scale = scale_of(*bounds, body * DOWN, log=look.log)
    labels = _labels(scale, body)
    margin = max(columns_of(label) for label in labels.values())
    across = max(1, width - margin - 1)
    canvas = Canvas(across, body)
    for style, line in lines:
        if look.smooth:  # what was logged stays to be seen behind it
            _draw(canvas, thinned(line, *steps, across * ACROSS), scale, "faint")
        drawn = list(smoothed(line, look.smooth)) if look.smooth else line
        _draw(canvas, thinned(drawn, *steps, across * ACROSS), scale, style)
    rows = [
        [Piece(labels.get(n, "").rjust(margin), "dim"), Piece("┤" if n in labels else "│", "dim"), *row]
        for n, row in enumerate(canvas.lines)
    ]
    return [title, *rows, _steps_axis(*steps, margin, across)]


def window(plots: Sequence[Plot], look: Look) -> tuple[float, float]:
    """The first and the last step that a chart shows: some steps at least, however close the look is."""
    begin = min((plot.course.line[0].step for plot in plots if plot.course.line), default=0)
    end = max((max(plot.course.line[-1].step, plot.course.last_step) for plot in plots if plot.course.line), default=0)
    last = begin + (end - begin) * look.last
    first = min(begin + (end - begin) * look.first, max(begin, last - _FEWEST))
    return first, max(last, min(end, first + _FEWEST))


def _title(name: str, plots: Sequence[Plot], width: int, chosen: bool) -> Line:
    last = plots[-1].course.last if plots else None
    value = figure(last) if last is not None else ""
    note = "sampled " if any(plot.course.sampled for plot in plots) else ""
    room = width - columns_of(value) - 2 - len(note)
    return [
        Piece(cut(name, room), "chosen" if chosen else "title"),
        *([Piece(note, "dim")] if note else []),
        Piece(f" {value} ", "bold"),
    ]


def _bounds(lines: Sequence[Sequence[Span]], steps: tuple[float, float], *, log: bool) -> tuple[float, float] | None:
    """The smallest and the largest value that is to be seen."""
    low, high = math.inf, -math.inf
    for line in lines:
        for n, span in enumerate(line):
            # What begins beyond the window is not in it; what begins before it reaches into it.
            if span.step > steps[1] or (n + 1 < len(line) and line[n + 1].step <= steps[0]):
                continue
            if -math.inf < span.low < low and (not log or span.low > 0):
                low = span.low
            if high < span.high < math.inf:
                high = span.high
            if log and 0 < span.last < low:  # of a span that begins below
                low = span.last
    return (min(low, high), high) if high > (0 if log else -math.inf) else None


def _labels(scale: Scale, height: int) -> dict[int, str]:
    """What is written beside which line."""
    dot = scale.dot
    return {dot(value) // DOWN: figure(value) for value in ticks(scale, max(2, height // 2))}


def _draw(canvas: Canvas, columns: Sequence[Column], scale: Scale, style: str) -> None:
    dot, isfinite = scale.dot, math.isfinite
    before: tuple[int, int] | None = None
    for at, low, high, last in columns:
        if isfinite(low) and isfinite(high):
            top, bottom = dot(high), dot(low)
            if before is not None:
                x, y = before
                if at == x + 1:  # as nearly all are: joined by making the column longer
                    canvas.column(at, min(top, y), max(bottom, y), style)
                else:  # with the nearer end, since the column itself draws the other
                    canvas.line(x, y, at, top if abs(top - y) < abs(bottom - y) else bottom, style)
            canvas.column(at, top, bottom, style)
            before = at, dot(last)


def _steps_axis(first: float, last: float, margin: int, across: int) -> Line:
    steps = [round(first), round((first + last) / 2), round(last)]
    left, middle, right = map(short, steps)
    if len({left, middle, right}) < len(set(steps)):  # so close that their ends make the difference
        left, middle, right = (f"{step:,}" for step in steps)
    if len(left) + len(right) + 2 > across:
        return [Piece(" " * (margin + 1)), Piece(cut(left, across), "dim")]
    room = across - len(left) - len(right)
    text = middle.center(room) if room > len(middle) + 4 and last - first > 1 else " " * room
    return [Piece(" " * (margin + 1)), Piece(left + text + right, "dim")]
