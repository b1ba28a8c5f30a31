"""A chart of one metric: its size, its window, its scale."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace_agent.top.chart import LEAST_HEIGHT, LEAST_WIDTH, Look, Plot, chart, window
from tailrace_agent.top.courses import Course, course_of_points
from tailrace_agent.top.lines import Line, plain_text, width_of


def _plot(values: list[float], style: str = "s0") -> Plot:
    return Plot(course_of_points([(n, n, value) for n, value in enumerate(values)]), style)


def _text(lines: list[Line]) -> list[str]:
    return [plain_text(line) for line in lines]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(), max_size=40), max_size=3),
    st.integers(LEAST_WIDTH, 120),
    st.integers(LEAST_HEIGHT, 40),
    st.booleans(),
    st.sampled_from([0.0, 0.9]),
    st.sampled_from([(0.0, 1.0), (0.25, 0.5), (0.999, 1.0)]),
)
def test_a_chart_of_anything_has_its_size(
    several: list[list[float]], width: int, height: int, log: bool, smooth: float, window: tuple[float, float]
) -> None:
    lines = chart("a/b\x1b[31m", tuple(map(_plot, several)), Look(log, smooth, *window), width, height)
    assert [width_of(line) for line in lines] == [width] * height
    assert all(each.text.isprintable() for line in lines for each in line)


def test_the_axes_say_from_where_to_where() -> None:
    lines = _text(chart("loss", (_plot([0.0, 5.0, 10.0]),), Look(), 40, 9))
    assert lines[0].split() == ["loss", "10"]
    labels = [line.partition("┤")[0].strip() for line in lines if "┤" in line]
    assert (labels[0], labels[-1]) == ("10", "0")
    assert lines[-1].split() == ["0", "1", "2"]


def test_a_window_shows_its_steps_and_scales_to_them() -> None:
    values = [1000.0] + [1.0] * 98 + [2.0]
    lines = _text(chart("loss", (_plot(values),), Look(first=0.5, last=1.0), 40, 9))
    assert "1000" not in "".join(lines)
    assert lines[-1].split()[0] == "50"
    assert lines[-1].split()[-1] == "99"


def test_a_logarithmic_scale_leaves_out_what_is_not_above_zero() -> None:
    lines = _text(chart("loss", (_plot([-1.0, 0.0, 0.001, 1.0, 1000.0]),), Look(log=True), 40, 9))
    assert [line.partition("┤")[0].strip() for line in lines if "┤" in line] == ["1000", "1", "0.001"]
    assert "nothing above 0" in _text(chart("loss", (_plot([-1.0, 0.0]),), Look(log=True), 40, 9))[1]


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf]])
def test_without_a_value_that_says(values: list[float]) -> None:
    assert "no values yet" in _text(chart("loss", (_plot(values),), Look(), 40, 9))[1]


def test_several_runs_have_their_colours_and_an_average_leaves_what_was_logged_behind_it() -> None:
    two = chart("loss", (_plot([0.0, 1.0], "s0"), _plot([1.0, 0.0], "s1")), Look(), 40, 9)
    assert {each.style for line in two[1:-1] for each in line} >= {"s0", "s1"}
    noisy = [float(n % 2) for n in range(100)]
    smooth = chart("loss", (_plot(noisy),), Look(smooth=0.97), 40, 9)
    assert {each.style for line in smooth[1:-1] for each in line} >= {"faint", "s0"}


def test_a_chart_of_sampled_points_says_so() -> None:
    plot = _plot([0.0, 5.0, 10.0])
    sampled = Plot(Course(plot.course.drawn, sampled=True), "s1")
    assert _text(chart("loss", (plot, sampled), Look(), 40, 9))[0].split() == ["loss", "sampled", "10"]


def test_however_close_the_look_some_steps_are_to_be_seen() -> None:
    plots = (_plot([float(n) for n in range(101)]),)
    assert window(plots, Look()) == (0, 100)
    assert window(plots, Look(first=0.999, last=1.0)) == (92, 100)
    assert window(plots, Look(first=0.0, last=0.001)) == (0.0, 8.0)
    assert window((_plot([1.0, 2.0]),), Look(first=0.9, last=1.0)) == (0, 1)
    assert window((), Look()) == (0, 0)


def test_steps_that_are_close_to_each_other_are_written_in_full() -> None:
    course = course_of_points([(n, 0, 1.0) for n in range(66_800, 66_833)])
    assert _text(chart("loss", (Plot(course, "s0"),), Look(), 60, 9))[-1].split() == ["66,800", "66,816", "66,832"]
