"""The panels: the machine, the ranks, the delivery, the alerts, the console."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from tailrace_agent.top.courses import Course, course_of_points
from tailrace_agent.top.lines import Line, plain_text
from tailrace_agent.top.panels import gauges, panel, ranks_of
from tailrace_agent.top.rows import Known, RunRow
from tailrace_agent.top.view import PANELS


def _courses(**values: float) -> Mapping[str, Course]:
    return {name.replace("__", "/"): course_of_points([(0, 1, value)]) for name, value in values.items()}


def _row(**fields: object) -> RunRow:
    return RunRow(**{"key": "a", "name": "r", "state": "RUNNING", "accepted": 100, "delivered": 100, **fields})  # type: ignore[arg-type]


def _text(lines: list[Line]) -> str:
    return "\n".join(map(plain_text, lines))


def test_gauges_are_of_cpu_memory_and_gpus_of_each_node() -> None:
    courses = _courses(
        system__cpu_utilization_percentage=40.0,
        system__system_memory_usage_percentage=20.0,
        system__gpu_1_utilization_percentage=99.0,
        system__gpu_1_memory_usage_percentage=50.0,
        system__node1__cpu_utilization_percentage=30.0,
        system__disk_usage_percentage=1.0,
        loss=2.0,
    )
    assert [gauge.name for gauge in gauges(courses)] == ["CPU", "CPU node1", "memory", "GPU 1", "GPU 1 mem"]
    lines = panel("machine", Known(courses={"a": courses}), _row(), 60, 5)
    assert [line[1].style for line in lines] == ["good", "good", "good", "bad", "good"]
    assert "99.0 %" in _text(lines)


def test_the_slowest_rank_stands_out_and_is_shown_first() -> None:
    courses = {
        f"train/batch_time_seconds/rank{n}": course_of_points([(0, 1, 2.0 if n == 11 else 1.0)]) for n in range(16)
    }
    found = ranks_of(courses)
    assert [(each.name, each.slowest) for each in found] == [("train/batch_time_seconds", "11")]
    lines = panel("ranks", Known(courses={"a": courses}), _row(), 60, 4)
    assert plain_text(lines[1]).split()[:2] == ["rank", "11"]
    assert lines[1][1].style == "bad"
    even = {f"t/rank{n}": course_of_points([(0, 1, 1.0 + n / 100)]) for n in range(4)}
    assert ranks_of(even)[0].slowest is None
    assert ranks_of(_courses(t__rank0=1.0, t__rank1=math.nan))[0].slowest == "1"


def test_of_statistics_the_rank_is_named_that_they_name() -> None:
    courses = {
        f"time.{word}/node1": course_of_points([(0, 1, value)])
        for word, value in (("mean", 1.0), ("min", 0.9), ("max", 1.5), ("max_rank", 3.0))
    }
    found = ranks_of(courses)[0]
    assert (found.name, found.slowest) == ("time/node1", "3")
    text = _text(panel("ranks", Known(courses={"a": courses}), _row(), 80, 4))
    assert "slowest: rank 3" in text
    assert "mean 1" in text


def test_times_come_before_other_metrics_of_ranks() -> None:
    courses = _courses(loss__rank0=1.0, loss__rank1=1.0, step_time__rank0=1.0, step_time__rank1=1.0)
    assert [each.name for each in ranks_of(courses)] == ["step_time", "loss"]


def test_delivery_says_what_waits_what_is_lost_and_why() -> None:
    assert _text(panel("delivery", Known(), _row(), 60, 5)).strip() == "100 of 100 in MLflow"
    row = _row(
        delivered=60,
        pending=30,
        dead=5,
        dropped={"spool at its bound": 5},
        lag=12.0,
        problem="no\x1b[31m",
        url="http://x",
    )
    lines = [plain_text(line).strip() for line in panel("delivery", Known(), row, 60, 9)]
    assert lines == [
        "60 of 100 in MLflow",
        "30 pending, for 12 s at most",
        "5 dead: `tailrace dead list` says why",
        "5 dropped: spool at its bound",
        "no\\x1b[31m",
        "http://x",
    ]
    assert "running in MLflow" in _text(panel("delivery", Known(), _row(accepted=None), 60, 5))


def test_alerts_and_console_show_the_newest_and_no_control_character() -> None:
    row = _row(notices=["one", "two\x1b[2J"])
    assert _text(panel("alerts", Known(), row, 30, 1)).strip() == "two\\x1b[2J"
    known = Known(tails={"a": ["x", "y", "\x1b[31mz"]})
    assert [plain_text(line) for line in panel("console", known, row, 30, 2)] == [" y", " \\x1b[31mz"]


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_without_anything_says_so_in_one_line(name: str) -> None:
    assert len(panel(name, Known(), _row(accepted=None), 30, 5)) == 1
    assert panel(name, Known(), None, 30, 5) == []
