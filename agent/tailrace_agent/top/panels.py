"""What stands beside the charts: the machine, the ranks, the delivery, the alerts, the console. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tailrace_agent.settings.units import duration
from tailrace_agent.text.sparkline import sparkline, thinned
from tailrace_agent.top.axes import figure, short
from tailrace_agent.top.courses import Course
from tailrace_agent.top.lines import Line, Piece, cut, piece
from tailrace_agent.top.rows import Known, RunRow

__all__ = ["Gauge", "Ranks", "gauges", "panel", "ranks_of"]

_SPARK: Final = 12
_NAME: Final = 16
_PERCENT: Final = re.compile(
    r"(?:[^/]+/)(?:(?P<node>[^/]+)/)?"
    r"(?P<name>cpu_utilization|system_memory_usage|gpu_\d+_utilization|gpu_\d+_memory_usage)_percentage"
)
_WORDS: Final = {"cpu_utilization": "CPU", "system_memory_usage": "memory"}
_OF_RANK: Final = re.compile(r"(?P<name>.+)/rank(?P<rank>\d+)")
_MAX_RANK: Final = ".max_rank"
_SLOW: Final = 1.2
"""Times the mean of the ranks from which on the slowest is one."""
_EMPTY: Final = {
    "machine": "no system metrics: start_run(log_system_metrics=True)",
    "ranks": "no metrics of several ranks",
    "alerts": "nothing has been said",
    "console": "no console is kept",
}
_TIMES: Final = re.compile(r"(?<![a-z])(time|seconds|duration|wait|latency)(?![a-z])", re.IGNORECASE)


class Gauge(NamedTuple):
    """A share of something, in percent."""

    name: str
    course: Course


class Ranks(NamedTuple):
    """A metric of several ranks; `slowest` is the rank with the largest value, if one stands out."""

    name: str
    values: dict[str, float]
    slowest: str | None


def gauges(courses: Mapping[str, Course]) -> list[Gauge]:
    """How busy the machine is, as far as the run is monitored."""
    found = []
    for key, course in courses.items():
        if course.last is not None and (match := _PERCENT.fullmatch(key)):
            name = match["name"]
            if name.startswith("gpu_"):
                number, what = name.removeprefix("gpu_").split("_", 1)
                word = f"GPU {number}" if what == "utilization" else f"GPU {number} mem"
            else:
                word = _WORDS[name]
            found.append(Gauge(f"{word} {match['node']}" if match["node"] else word, course))
    return sorted(found, key=lambda gauge: (gauge.name.startswith("GPU"), gauge.name))


def ranks_of(courses: Mapping[str, Course]) -> list[Ranks]:
    """The metrics that several ranks have logged, times first."""
    found: dict[str, dict[str, float]] = {}
    for key, course in courses.items():
        if course.last is None:
            continue
        if match := _OF_RANK.fullmatch(key):
            found.setdefault(match["name"], {})[match["rank"]] = course.last
        elif _MAX_RANK in key:
            name, _, node = key.partition(_MAX_RANK)
            parts = {word: courses.get(f"{name}.{word}{node}") for word in ("mean", "min", "max")}
            values = {word: part.last for word, part in parts.items() if part is not None and part.last is not None}
            if math.isfinite(course.last):
                found[name + node] = {**values, "rank": course.last}
    ranks = [Ranks(name, values, _slowest(values)) for name, values in found.items()]
    return sorted(ranks, key=lambda each: (not _TIMES.search(each.name.replace("_", " ")), each.name))


def _slowest(values: Mapping[str, float]) -> str | None:
    if "rank" in values:  # statistics, which name it
        slow = values.get("max", 0.0) > _SLOW * values.get("mean", math.inf)
        return str(int(values["rank"])) if slow else None
    worst = next((rank for rank, value in values.items() if math.isnan(value)), None)
    if worst is not None or len(values) < 2:
        return worst
    largest = max(values, key=values.__getitem__)
    others = [value for rank, value in values.items() if rank != largest]
    return largest if values[largest] > _SLOW * sum(others) / len(others) else None


def panel(name: str, known: Known, row: RunRow | None, width: int, height: int) -> list[Line]:
    """A panel's lines, at most so many."""
    if row is None:
        return []
    lines = _body(name, known, row, width, height)
    return (lines or [[Piece(cut(f" {_EMPTY.get(name, '')}", width), "dim")]])[:height]


def _body(name: str, known: Known, row: RunRow, width: int, height: int) -> list[Line]:
    courses = known.courses.get(row.key, {})
    if name == "machine":
        return _machine(courses, width)
    if name == "ranks":
        return _ranks(courses, width, height)
    if name == "delivery":
        return _delivery(row, width)
    if name == "alerts":
        return [[Piece(cut(f" {text}", width), "warn")] for text in reversed(row.notices)]
    return [[Piece(cut(f" {text}", width))] for text in known.tails.get(row.key, [])[-height:]]


def _machine(courses: Mapping[str, Course], width: int) -> list[Line]:
    lines: list[Line] = []
    room = max(4, width - _NAME - 8 - _SPARK - 2)
    for name, course in gauges(courses):
        share = min(1.0, max(0.0, (course.last or 0.0) / 100))
        full = round(share * room)
        style = "bad" if share > 0.95 else "warn" if share > 0.8 else "good"
        spark = sparkline(thinned([span.last for span in course.line], _SPARK))
        lines.append(
            [
                piece(cut(f" {name}", _NAME)),
                Piece("█" * full, style),
                Piece("░" * (room - full), "dim"),
                Piece(f"{course.last or 0.0:6.1f} % "),
                Piece(spark, "dim"),
            ]
        )
    return lines


def _ranks(courses: Mapping[str, Course], width: int, height: int) -> list[Line]:
    lines: list[Line] = []
    for name, values, slowest in ranks_of(courses):
        if "rank" in values:
            text = "  ".join(f"{word} {figure(value)}" for word, value in values.items() if word != "rank")
            who = f"slowest: rank {int(values['rank'])}"
            lines.append([piece(cut(f" {name}", max(8, width // 3)), "title"), Piece(f" {text}  ")])
            lines[-1].append(Piece(who, "bad" if slowest is not None else "dim"))
            continue
        lines.append([piece(cut(f" {name}", width), "title")])
        largest = max((abs(value) for value in values.values() if math.isfinite(value)), default=0.0) or 1.0
        lines += [
            _bar(f"rank {rank}", values[rank], largest, width, slow=rank == slowest)
            for rank in _worst_first(values, slowest)[: max(1, height - 1)]
        ]
    return lines


def _worst_first(values: Mapping[str, float], slowest: str | None) -> list[str]:
    """The ranks by number, but one that stands out before them: it is to be seen where there is no room for all."""
    ranks = sorted(values, key=int)
    return [slowest, *(rank for rank in ranks if rank != slowest)] if slowest is not None else ranks


def _bar(name: str, value: float, largest: float, width: int, *, slow: bool) -> Line:
    room = max(4, width - 12 - 12)
    full = round(min(1.0, abs(value) / largest) * room) if math.isfinite(value) else room
    style = "bad" if slow else "good"
    return [Piece(cut(f"  {name}", 12)), Piece("█" * full, style), Piece("░" * (room - full), "dim"),
            Piece(f" {figure(value)}", style if slow else "")]  # fmt: skip


def _delivery(row: RunRow, width: int) -> list[Line]:
    if row.accepted is None:
        facts: Sequence[tuple[str, str]] = [(f" {row.state.lower()} in MLflow", "")]
    else:
        rest = row.pending + row.dead + sum(row.dropped.values())
        facts = [
            (f" {row.delivered:,} of {row.accepted:,} in MLflow", "good" if not rest else ""),
            *([(f" {short(row.pending)} pending, for {duration(row.lag)} at most", "")] if row.pending else []),
            *([(f" {row.dead:,} dead: `tailrace dead list` says why", "bad")] if row.dead else []),
            *((f" {n:,} dropped: {reason}", "bad") for reason, n in row.dropped.items()),
        ]
    lines = [[Piece(cut(text, width), style)] for text, style in facts]
    if row.problem:
        lines.append([Piece(cut(f" {row.problem}", width), "bad")])
    if row.url:
        lines.append([Piece(cut(f" {row.url}", width), "dim")])
    return lines
