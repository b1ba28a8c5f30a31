"""Scales of a chart, their round values, and how figures are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.top.axes import Scale, figure, scale_of, short, ticks

_FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(_FINITE, _FINITE, st.booleans(), _FINITE)
def test_every_finite_value_has_a_dot_on_every_scale(one: float, other: float, log: bool, value: float) -> None:
    scale = scale_of(min(one, other), max(one, other), 20, log=log)
    assert scale.low < scale.high
    dot = scale.dot
    assert 0 <= dot(value) < 20
    assert (dot(scale.high), dot(scale.low)) == (0, 19)


@given(_FINITE, _FINITE, st.booleans(), st.integers(2, 8))
def test_round_values_are_on_the_scale_and_no_more_than_there_is_room_for(
    one: float, other: float, log: bool, most: int
) -> None:
    scale = scale_of(min(one, other), max(one, other), 40, log=log)
    found = ticks(scale, most)
    assert 2 <= len(found) <= max(most, 2)
    margin = (scale.high / 2 - scale.low / 2) * 1e-6
    assert all(scale.low - margin <= tick <= scale.high + margin for tick in found)


@pytest.mark.parametrize(
    ("scale", "most", "found"),
    [
        (Scale(0.0, 1.0, 40), 3, [0.0, 0.5, 1.0]),
        (Scale(1e-6, 1.09, 20), 2, [0.5, 1.0]),
        (Scale(-3.0, 97.0, 40), 4, [0.0, 25.0, 50.0, 75.0]),
        (Scale(0.0004, 2.0, 40, log=True), 4, [0.001, 0.01, 0.1, 1.0]),
        (Scale(1e-9, 1.0, 40, log=True), 4, [1e-9, 1e-6, 1e-3, 1.0]),
        (Scale(1.02, 1.03, 40, log=True), 4, [1.02, 1.03]),
    ],
)
def test_ticks_are_the_values_that_a_person_would_write(scale: Scale, most: int, found: list[float]) -> None:
    assert ticks(scale, most) == pytest.approx(found)


def test_decades_are_of_one_height() -> None:
    dot = Scale(0.01, 100.0, 41, log=True).dot
    assert [dot(value) for value in (100, 10, 1, 0.1, 0.01, 0.0, -1)] == [0, 10, 20, 30, 40, 40, 40]


def test_figures_and_counts_are_short() -> None:
    values = (0.123456, 3.0, -12345.678, 1e-9, math.inf, 123456789.0)
    assert [figure(value) for value in values] == ["0.1235", "3", "-1.235e+04", "1e-09", "inf", "1.235e+08"]
    assert (figure(None), figure(math.nan)) == ("-", "nan")
    assert [short(n) for n in (0, 950, 12_345, 10_000_000, 2.5, 3e13)] == ["0", "950", "12.3k", "10M", "2.5", "30T"]
