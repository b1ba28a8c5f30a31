"""One frame: the list of runs, charts, panels, keys; and where on it a mouse finds what. Pure."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tailrace_agent.settings.units import duration
from tailrace_agent.spool.extremes import of_program
from tailrace_agent.top.axes import short
from tailrace_agent.top.chart import LEAST_HEIGHT, LEAST_WIDTH, Plot, chart, window
from tailrace_agent.top.courses import Course
from tailrace_agent.top.lines import Line, Piece, beside, cut, fitted, piece
from tailrace_agent.top.panels import panel
from tailrace_agent.top.rows import Known, RunRow
from tailrace_agent.top.view import KEYS, PANELS, View, shown_metrics

__all__ = ["Frame", "Shown", "Spot", "frame"]

_COLOURS: Final = 6
_CHART_WIDTH: Final = 38
_CHART_HEIGHT: Final = 10
_CHART_SMALL: Final = 6
"""About what one chart should have, and with how many lines there are still two rows of them."""
_SIDE: Final = 46
_WIDE: Final = 124
"""Columns of the panels beside the charts, and from how many on they are there."""
_BELOW: Final = 6
_STATES: Final = {"RUNNING": "good", "FINISHED": "dim", "FAILED": "bad", "KILLED": "bad", "UNKNOWN": "warn"}
_HINTS: Final = (
    "↑↓ run  ←→ metric  Enter alone  Space beside  / metrics  f runs  l log  s smooth  +- zoom  Tab panel  "
    "? help  q quit"
)


class Spot(NamedTuple):
    """A place on the frame that a mouse may click on: what is there, and which one."""

    top: int
    bottom: int
    left: int
    right: int
    what: str
    which: int


class Shown(NamedTuple):
    """A metric of a run that has a chart: its first and its last step, and whether these are all that there are."""

    run: str
    metric: str
    first: int
    last: int
    all: bool


class Frame(NamedTuple):
    """All lines, each as wide as the frame; the places of what can be clicked, and what is drawn."""

    lines: list[Line]
    spots: list[Spot]
    shown: list[Shown]


def frame(known: Known, view: View, width: int, height: int, now: float | None = None) -> Frame:
    """The frame in exactly that many columns and lines.

    Args:
        known: What there is to be seen.
        view: What of it is chosen; what is not there any more is chosen anew.
        width: Columns.
        height: Lines.
        now: Seconds since the epoch, for ages.
    """
    now = time.time() if now is None else now
    view.settle([row.key for row in known.runs])
    metrics = metrics_of(known, view)
    if metrics:  # a run that was chosen just now has none for a moment
        view.chart = min(view.chart, len(metrics) - 1)
    if view.help:
        lines: list[Line] = [_title(known, view, width), *_help(height - 2), _keys(view, width)]
        return Frame(_sized(lines, width, height), [], [])
    spots: list[Spot] = []
    shown: list[Shown] = []
    lines = [_title(known, view, width)]
    lines += _runs(known, view, width, max(3, min(len(known.runs) + 1, (height - 2) // 4)), now, spots, len(lines))
    rest = height - len(lines) - 1
    row = next((row for row in known.runs if row.key == view.run), None)
    if width >= _WIDE:
        charts = _charts(known, view, metrics, width - _SIDE - 1, rest, spots, shown, len(lines))
        side = _side(known, row, _SIDE, rest)
        lines += beside(charts, [[Piece("│", "dim"), *line] for line in side], width - _SIDE - 1)
    else:
        below = _BELOW if rest >= _BELOW + LEAST_HEIGHT + 2 else 0
        lines += _charts(known, view, metrics, width, rest - below, spots, shown, len(lines))
        if below:
            lines += _one_panel(known, row, view, width, below, spots, len(lines))
    lines = _sized(lines, width, height - 1)
    return Frame(_sized([*lines, _keys(view, width)], width, height), spots, shown)


def metrics_of(known: Known, view: View) -> list[str]:
    """The metrics that have charts: of all runs that are drawn, the chosen run's first."""
    names: dict[str, None] = {}
    for run in reversed(view.drawn):
        names |= dict.fromkeys(known.courses.get(run, ()))
    return shown_metrics(list(names), view.filter, machine=view.machine)


def _sized(lines: list[Line], width: int, height: int) -> list[Line]:
    lines = [fitted(line, width) for line in lines[:height]]
    return lines + [[Piece(" " * width)] for _ in range(height - len(lines))]


def _title(known: Known, view: View, width: int) -> Line:
    live = sum(row.live for row in known.runs)
    look = view.look
    facts = [
        *([f"runs:{view.run_filter}"] if view.run_filter else []),
        *([f"/{view.filter}"] if view.filter or (view.typing is not None and not view.of_runs) else []),
        *(["log"] if look.log else []),
        *([f"smooth {look.smooth:g}"] if look.smooth else []),
        *([f"zoom {1 / (look.last - look.first):.0f}x"] if look.last - look.first < 1 else []),
    ]
    right = "  ".join(facts)
    n = f"{len(known.runs)} of {known.of}" if known.of is not None else f"{len(known.runs)}"
    left = (
        f" tailrace top  {known.place}  {n}{' newest' if known.more else ''} run{'' if n == '1' else 's'}, {live} live"
    )
    if known.fault and known.runs:
        left = f" {known.fault}"
    room = width - len(right) - 1
    return [Piece(cut(left, room), "warn" if known.fault else "title"), Piece(cut(right, len(right)), "chosen"),
            Piece(" ")]  # fmt: skip


def _runs(known: Known, view: View, width: int, height: int, now: float, spots: list[Spot], top: int) -> list[Line]:
    runs = known.runs
    if not runs:
        text = "no run fits: Esc shows all" if known.of else known.empty
        # In the title the end is cut off, which says what to do.
        why = textwrap.wrap(known.fault, max(10, width - 4)) if known.fault else []
        return [[Piece(cut(f"  {text}", width), "dim")], *([Piece(cut(f"  {line}", width), "warn")] for line in why)]
    name = max(8, width - 60)
    at = next((n for n, row in enumerate(runs) if row.key == view.run), 0)
    room = view.run_page = height - 1
    label = f"RUN {at + 1}/{len(runs)}" if len(runs) > room else "RUN"
    lines: list[Line] = [
        [Piece(cut(f"    {label.ljust(name)} {'STATE':9} {'AGE':>8} {'STEP':>8} {'RATE':>8} {'PENDING':>8} {'LAG':>7}",
                   width), "dim")]
    ]  # fmt: skip
    first = max(0, min(at - room // 2, len(runs) - room))
    drawn = view.drawn
    for n, row in enumerate(runs[first : first + room], start=first):
        colour = f"s{drawn.index(row.key) % _COLOURS}" if row.key in drawn else ""
        mark = "●" if row.key in drawn else "·"
        chosen = row.key == view.run
        step = row.step if row.step is not None else _last_step(known.courses.get(row.key, {}))
        age = duration(max(0.0, now - row.started)) if row.started else "-"
        facts = (
            f"{age:>8} {short(step) if step is not None else '-':>8}"
            f" {f'{short(row.rate)}/s' if row.rate is not None else '-':>8}"
            f" {short(row.pending) if row.accepted is not None else '-':>8}"
            f" {duration(row.lag) if row.pending and row.lag else '-':>7}"
        )
        trouble = row.problem or row.dead or row.dropped
        lines.append(
            [
                Piece(" ▸" if chosen else "  "),
                Piece(f"{mark} ", colour or "dim"),
                Piece(cut(row.name, name), "chosen" if chosen else ""),
                Piece(f" {cut(row.state, 9)}", _STATES.get(row.state, "")),
                Piece(f" {facts}", "" if row.live else "dim"),
                Piece(" !" if trouble else "", "bad"),
            ]
        )
        spots.append(Spot(top + len(lines) - 1, top + len(lines), 0, width, "run", n))
    return lines


def _last_step(courses: Mapping[str, Course]) -> int | None:
    return max((course.last_step for name, course in courses.items() if of_program(name)), default=None)


def _charts(
    known: Known,
    view: View,
    metrics: Sequence[str],
    width: int,
    height: int,
    spots: list[Spot],
    shown: list[Shown],
    top: int,
) -> list[Line]:
    if not metrics or height < LEAST_HEIGHT:
        text = "  no metric fits" if view.filter else "  no metrics yet"
        text = "" if metrics else text
        return [[Piece(cut(text if n == 1 else "", width), "dim")] for n in range(height)]
    across, down = (1, 1) if view.alone else _grid(len(metrics), width, height)
    view.page = across * down
    first = view.chart // view.page * view.page
    wide, high = width // across, height // down
    lines: list[Line] = []
    for row in range(down):
        block: list[Line] = []
        for column in range(across):
            at = first + row * across + column
            left = column * wide
            drawn: list[Line] = []
            if at < len(metrics):
                name = metrics[at]
                plots = _plots(known, view, name)
                drawn = chart(name, plots, view.look, wide - 1, high, chosen=at == view.chart)
                shown += _shown(known, view, name, plots)
                spots.append(Spot(top + row * high, top + (row + 1) * high, left, left + wide, "chart", at))
            block = beside(block, drawn, left) if column else drawn
        lines += block
    more = len(metrics) - first - view.page
    if more > 0 or first:
        text = f" charts {first + 1}-{min(len(metrics), first + view.page)} of {len(metrics)}: PgUp, PgDn "
        lines[-1] = [*fitted(lines[-1], width - len(text)), Piece(text, "dim")]
    return lines


def _grid(metrics: int, width: int, height: int) -> tuple[int, int]:
    """Charts across and down."""
    across = max(1, min(width // _CHART_WIDTH, metrics)) if width >= 2 * LEAST_WIDTH else 1
    down = max(1, min(max(height // _CHART_HEIGHT, min(2, height // _CHART_SMALL)), -(-metrics // across)))
    return across, down


def _plots(known: Known, view: View, name: str) -> tuple[Plot, ...]:
    drawn = view.drawn
    found: list[Plot] = []
    for n, run in enumerate(drawn):
        courses: Mapping[str, Course] = known.courses.get(run, {})
        if (course := courses.get(name)) is not None:
            found.append(Plot(course, f"s{n % _COLOURS}"))
    return tuple(found)


def _shown(known: Known, view: View, name: str, plots: tuple[Plot, ...]) -> list[Shown]:
    first, last = window(plots, view.look)
    whole = (view.look.first, view.look.last) == (0.0, 1.0)
    runs = (run for run in view.drawn if name in known.courses.get(run, {}))
    return [Shown(run, name, math.floor(first), math.ceil(last), whole) for run in runs]


def _side(known: Known, row: RunRow | None, width: int, height: int) -> list[Line]:
    """All panels, one below the other."""
    lines: list[Line] = []
    for n, name in enumerate(PANELS):
        room = (height - len(lines)) // (len(PANELS) - n)
        if room >= 2:
            body = panel(name, known, row, width, room - 1)
            lines += [[Piece(cut(f" {name} ", width), "title")], *body]
    return (lines + [[] for _ in range(height)])[:height]


def _one_panel(
    known: Known, row: RunRow | None, view: View, width: int, height: int, spots: list[Spot], top: int
) -> list[Line]:
    """The names of all panels, and the one that is chosen."""
    tabs: Line = [Piece(" ")]
    left = 1
    for n, name in enumerate(PANELS):
        tabs += [Piece(f" {name} ", "chosen" if n == view.panel else "dim"), Piece(" ")]
        spots.append(Spot(top, top + 1, left, left + len(name) + 2, "panel", n))
        left += len(name) + 3
    body = panel(PANELS[view.panel], known, row, width, height - 1)
    return ([tabs, *body] + [[] for _ in range(height)])[:height]


def _keys(view: View, width: int) -> Line:
    if view.typing is not None:
        prompt = "only runs: " if view.of_runs else "/"
        return [piece(f" {prompt}{view.typing}"), Piece("▏", "chosen"), Piece("  Enter: keep  Esc: leave it", "dim")]
    hints = (
        _HINTS
        if len(_HINTS) < width
        else "↑↓ run  ←→ metric  / metrics  f runs  l log  s smooth  +- zoom  ? help  q quit"
    )
    return [Piece(cut(f" {hints}", width), "dim")]


def _help(height: int) -> list[Line]:
    lines: list[Line] = [[], *([Piece(f"   {key:<9}", "bold"), Piece(does)] for key, does in KEYS)]
    return (lines + [[] for _ in range(height)])[:height]
