"""The metrics of a run, as a person reads them: last, best, and their course in a few characters."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Final

from tailrace_agent.text.sparkline import sparkline, thinned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace_agent.ipc.curve_files import RunCurves
    from tailrace_agent.ipc.curves import Drawn
    from tailrace_agent.ipc.status import MetricEnd, MetricEnds

__all__ = ["metric_lines", "metric_words", "metrics_now"]

_LONGEST_NAME: Final = 40
_SHOWN: Final = 12
_LINE: Final = 60  # values


def metric_lines(ends: MetricEnds, *, drawn: bool = True) -> list[str]:
    """One line a metric, in columns; and one that counts those left out.

    Args:
        ends: The metrics.
        drawn: Whether the stream has characters for their courses.

    Example:
        >>> metric_lines(MetricEnds(shown=[MetricEnd("loss", 0.5, [2.0, 0.5, 0.5], best=0.4, step=7)], more=3))
        ['loss  0.5  best 0.4 at step 7  █▁▁', 'and 3 more metrics']
    """
    rows = [
        (_cut(end.key), f"{end.last:.5g}", _best(end), sparkline(end.line) if drawn and len(end.line) > 1 else "")
        for end in ends.shown
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True) if width) for row in rows]
    if ends.more:
        lines.append(f"and {ends.more:,} more metric{'s' if ends.more != 1 else ''}")
    return [line.rstrip() for line in lines]


def metric_words(ends: MetricEnds) -> str:
    """The first of them, in a few words; "" where there is none."""
    if not ends.shown:
        return ""
    first = ends.shown[0]
    best = _best(first)
    return f"{_cut(first.key)} {first.last:.5g}{f' ({best})' if best else ''}"


def metrics_now(curves: RunCurves, defined: Mapping[str, str], *, by_name: bool) -> MetricEnds:
    """How the metrics of a run are, from the curves that its agent publishes: the program's own, with a best one first.

    Args:
        curves: Those of the run.
        defined: What its program has said is better, by pattern; see `delivery.goals.goal_of`.
        by_name: Whether names may say it otherwise.
    """
    from tailrace_agent.delivery.goals import goal_of
    from tailrace_agent.ipc.status import MetricEnd, MetricEnds
    from tailrace_agent.spool.extremes import of_program

    found = []
    for key, curve in curves.curves.items():
        if of_program(key):
            goal = goal_of(key, defined, by_name=by_name)
            found.append((key, curve, curve.low if goal == "min" else curve.high if goal == "max" else None))
    found.sort(key=lambda each: each[2] is None)
    ends = [
        MetricEnd(key, curve.last[2] if curve.last is not None else math.nan, _values(curve), *(best or ()))
        for key, curve, best in found[:_SHOWN]
    ]
    return MetricEnds(ends, len(found) - len(ends) + curves.left_out)


def _values(curve: Drawn) -> list[float]:
    # The bytes at once: as spans they would be 256 tuples a metric, and this is done while the program runs.
    values = array("d", curve.lasts[: len(curve.lasts) // 8 * 8])
    return thinned([value for value in values if not math.isnan(value)], _LINE)


def _best(end: MetricEnd) -> str:
    return "" if end.best is None else f"best {end.best:.5g} at step {end.step}"


def _cut(key: str) -> str:
    return key if len(key) <= _LONGEST_NAME else f"{key[: _LONGEST_NAME - 1]}…"
