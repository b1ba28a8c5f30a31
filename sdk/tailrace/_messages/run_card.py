"""A run as a small card in a notebook: HTML with inline SVG, no script, nothing that is loaded from elsewhere.

What this module promises: only what is passed is shown, and foreign text stays text. Colours are such that both a light
and a dark theme show them; text has the theme's own.

Pure.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from tailrace_agent.text.sparkline import heights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace_agent.ipc.status import MetricEnd, MetricEnds

__all__ = ["RunFacts", "run_card", "svg_line"]

_STATES: Final = {"RUNNING": "#2f81f7", "FINISHED": "#2da44e", "FAILED": "#e5534b", "KILLED": "#bf8700"}
_LINE: Final = "#2f81f7"
_QUIET: Final = "#808080"
_WIDTH, _HEIGHT, _EDGE = 140, 26, 3
_LONGEST: Final = 60  # characters of a name
_LINKS: Final = ("http://", "https://")

_BOX: Final = (
    "display:inline-block;box-sizing:border-box;min-width:320px;max-width:100%;margin:4px 0;padding:8px 14px 10px;"
    "border:1px solid rgba(128,128,128,.4);border-radius:8px;"
    "font:13px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif"
)
_ROW: Final = ' style="background:transparent"'
_CELL: Final = "padding:2px 14px 2px 0;border:0;background:transparent;text-align:{};white-space:nowrap"
_NUMBER: Final = "font-variant-numeric:tabular-nums;"


class RunFacts(NamedTuple):
    """What a card says.

    Attributes:
        name: Of the run.
        state: RUNNING, FINISHED, FAILED or KILLED.
        where: What it belongs to, one after the other: its experiment, the run that it is nested in.
        link: Its page in MLflow's UI.
        metrics: How they are, or how they ended.
        notes: What else there is to say, in short pieces.
        problem: What keeps it from being delivered.
    """

    name: str
    state: str
    where: Sequence[str]
    link: str | None
    metrics: MetricEnds
    notes: Sequence[str]
    problem: str | None = None


def run_card(facts: RunFacts) -> str:
    """The card, as HTML."""
    colour = _STATES.get(facts.state, _QUIET)
    state = f'<span style="color:{colour};font-weight:600;margin-left:10px">● {escape(facts.state)}</span>'
    link = facts.link if facts.link is not None and facts.link.startswith(_LINKS) else None
    opens = (
        f'<a href="{escape(link)}" target="_blank" rel="noopener" style="float:right;margin-left:24px;color:{_LINE}">'
        "Open in MLflow ↗</a>"
        if link
        else ""
    )
    parts = [f'<div>{opens}<span style="font-weight:600;font-size:15px">{escape(_cut(facts.name))}</span>{state}</div>']
    if facts.where:
        parts.append(_small(" · ".join(map(_cut, facts.where))))
    if facts.metrics.shown:
        rows = "".join(map(_metric, facts.metrics.shown))
        parts.append(f'<table style="border-collapse:collapse;border:0;margin:6px 0 4px">{rows}</table>')
    if facts.metrics.more:
        more = facts.metrics.more
        parts.append(_small(f"and {more:,} more metric{'s' if more != 1 else ''}"))
    if facts.problem:
        parts.append(f'<div style="color:{_STATES["FAILED"]}">{escape(facts.problem)}</div>')
    if facts.notes:
        parts.append(_small(" · ".join(facts.notes)))
    return f'<div style="{_BOX}">{"".join(parts)}</div>'


def svg_line(values: Sequence[float], label: str) -> str:
    """A line of values as an SVG picture, the higher the larger; what is no number leaves a gap.

    Args:
        values: Evenly spread.
        label: What it is, for those who do not see it.
    """
    step = (_WIDTH - 2 * _EDGE) / max(1, len(values) - 1)
    lines: list[list[tuple[float, float]]] = [[]]
    for n, height in enumerate(heights(values)):
        if math.isnan(height):
            lines.append([])
        else:
            lines[-1].append((_EDGE + n * step, _HEIGHT - _EDGE - height * (_HEIGHT - 2 * _EDGE)))
    drawn = "".join(
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in line)}" fill="none" stroke="{_LINE}" '
        'stroke-width="1.6" stroke-linejoin="round" stroke-linecap="round"/>'
        for line in lines
        if len(line) > 1
    )
    if lines[-1]:
        x, y = lines[-1][-1]
        drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{_LINE}"/>'
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" style="display:block">{drawn}</svg>'
    )


def _metric(end: MetricEnd) -> str:
    name = escape(_cut(end.key))
    line = svg_line(end.line, f"course of {end.key}") if len(end.line) > 1 else ""
    best = "" if end.best is None else f'<span style="opacity:.65">best</span> {end.best:.5g}'
    step = "" if end.best is None else f'<span style="opacity:.65">at step {end.step:,}</span>'
    cells = (
        ("left", "", name),
        ("left", "", line),
        ("right", f"{_NUMBER}font-weight:600;", f"{end.last:.5g}"),
        ("right", _NUMBER, best),
        ("left", "", step),
    )
    return f"<tr{_ROW}>{''.join(_cell(*cell) for cell in cells)}</tr>"


def _cell(align: str, style: str, inner: str) -> str:
    return f'<td style="{_CELL.format(align)};{style}">{inner}</td>'


def _small(text: str) -> str:
    return f'<div style="opacity:.7;font-size:12px">{escape(text)}</div>'


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
