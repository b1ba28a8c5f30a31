"""The metrics of a run that has ended, as a person reads them: last, best, and their course in a few characters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tailrace_agent.text.sparkline import sparkline

if TYPE_CHECKING:
    from tailrace_agent.ipc.status import MetricEnd, MetricEnds

__all__ = ["metric_lines", "metric_words"]

_LONGEST_NAME: Final = 40


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


def _best(end: MetricEnd) -> str:
    return "" if end.best is None else f"best {end.best:.5g} at step {end.step}"


def _cut(key: str) -> str:
    return key if len(key) <= _LONGEST_NAME else f"{key[: _LONGEST_NAME - 1]}…"
