"""A metric's course: its window, its columns, its moving average."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.ipc.curves import Span
from tailrace_agent.top.courses import closer, course_of_points, smoothed, thinned, within


def _spans(*values: float) -> list[Span]:
    return [Span(n, value, value, value) for n, value in enumerate(values)]


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=300), st.integers(1, 50))
def test_thinning_keeps_the_smallest_and_the_largest_value(values: list[float], columns: int) -> None:
    found = thinned(_spans(*values), 0, max(1, len(values) - 1), columns)
    assert len(found) <= columns
    assert [column.at for column in found] == sorted({column.at for column in found})
    assert (min(column.low for column in found), max(column.high for column in found)) == (min(values), max(values))
    assert found[-1].last == values[-1]


def test_ten_thousand_points_keep_the_one_that_stands_out() -> None:
    course = course_of_points([(step, step, 100.0 if step == 5_432 else math.sin(step)) for step in range(10_000)])
    assert len(course.line) <= 256
    assert max(column.high for column in thinned(course.line, 0, 9_999, 60)) == 100.0
    assert (course.last, course.last_step) == (math.sin(9_999), 9_999)


def test_a_window_has_one_span_more_on_each_side_so_that_lines_reach_its_edges() -> None:
    line = _spans(*map(float, range(10)))
    assert [span.step for span in within(line, 3, 5)] == [2, 3, 4, 5, 6]
    assert [span.step for span in within(line, 0, 99)] == list(range(10))
    assert [span.step for span in within(line, 20, 30)] == [9]


def test_a_moving_average_begins_at_the_first_value_and_passes_over_what_is_no_number() -> None:
    found = list(smoothed(_spans(1.0, math.nan, 1.0, math.inf, 1.0), 0.9))
    assert [span.step for span in found] == [0, 2, 4]
    assert all(abs(span.last - 1.0) < 1e-12 for span in found)
    assert [round(span.last, 3) for span in smoothed(_spans(1.0, 0.0, 0.0), 0.5)] == [1.0, 0.333, 0.143]


def test_a_course_without_points_has_no_line() -> None:
    course = course_of_points([])
    assert (list(course.line), course.last, course.last_step) == ([], None, 0)


def test_a_part_of_a_line_is_drawn_closer_and_the_rest_stays() -> None:
    course = course_of_points([(n, 0, float(n)) for n in range(0, 100, 10)])
    found = closer(course, [Span(15, 1.0, 9.0, 2.0), Span(25, 1.0, 1.0, 1.0)], sampled=True)
    assert [span.step for span in found.line] == [0, 10, 15, 25, 30, 40, 50, 60, 70, 80, 90]
    assert (found.sampled, found.last, found.last_step) == (True, 90.0, 90)
    assert closer(course, [], sampled=True) is course


def test_a_line_goes_to_its_last_value_however_coarse_its_spans_are() -> None:
    line = course_of_points([(n, 0, float(n)) for n in range(1000)]).line
    assert line[-1] == Span(999, 999.0, 999.0, 999.0)
    assert line[-2].step < 999
    assert len(course_of_points([(n, 0, float(n)) for n in range(10)]).line) == 10
