"""A metric's course: exact where it ends and where it was best, and coarse in between without losing a peak."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.ipc.curves import SPANS, Curve, Span

POINTS = st.lists(
    st.tuples(st.integers(-(2**40), 2**40), st.integers(0, 2**62), st.floats(width=32)), min_size=1, max_size=40
)


def finite(points: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    return [point for point in points if not math.isnan(point[2])]


@given(st.lists(POINTS, min_size=1, max_size=5))
def test_last_smallest_and_largest_are_those_of_all_points_however_they_come(
    batches: list[list[tuple[int, int, float]]],
) -> None:
    curve = Curve()
    for batch in batches:
        curve.add(batch)
    points = finite([point for batch in batches for point in batch])
    every = [point for batch in batches for point in batch]
    assert curve.last is not None
    assert curve.last[:2] == max((step, time_ns) for step, time_ns, _ in every)
    if not points:
        assert curve.low is curve.high is None
        return
    assert curve.low == min((value, step) for step, _, value in points)
    largest = max(value for _, _, value in points)
    assert curve.high == (largest, min(step for step, _, value in points if value == largest))


@given(st.lists(POINTS, min_size=1, max_size=5))
def test_the_line_is_short_and_each_point_lies_in_its_span(batches: list[list[tuple[int, int, float]]]) -> None:
    curve = Curve()
    for batch in batches:
        curve.add(batch)
    line = {span.step: span for span in curve.line}
    assert len(line) <= SPANS
    assert list(line) == sorted(line)
    points = finite([point for batch in batches for point in batch])
    for step, _, value in points:
        span = line[step // curve.width * curve.width]
        assert span.low <= value <= span.high
    # And nothing is drawn that was not logged.
    values = {value for _, _, value in points}
    assert all({span.low, span.high, span.last} <= values for span in line.values())


@given(POINTS)
def test_the_same_points_once_more_change_nothing(points: list[tuple[int, int, float]]) -> None:
    curve = Curve()
    curve.add(points)
    before, low, high, last = curve.line, curve.low, curve.high, curve.last
    curve.add(points)
    assert ([each[:3] for each in curve.line], curve.low, curve.high) == ([each[:3] for each in before], low, high)
    assert str(curve.last) == str(last)  # a NaN is not equal to itself


def test_a_long_course_keeps_its_one_peak() -> None:
    curve, values = Curve(), [random.Random(1).random() for _ in range(100_000)]
    values[31_337] = 9.0
    for at in range(0, len(values), 1000):
        curve.add([(step, step, values[step]) for step in range(at, at + 1000)])
    assert curve.width == 512
    assert max(span.high for span in curve.line) == 9.0
    assert curve.high == (9.0, 31_337)
    assert curve.line[0] == Span(0, min(values[:512]), max(values[:512]), values[511])
