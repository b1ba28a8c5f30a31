"""A line of figures as a line of characters."""

from __future__ import annotations

import math
import sys

import pytest

from tailrace_agent.text.sparkline import sparkline, thinned


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
        ([3.0, 3.0], "▅▅"),
        ([1.0, math.nan, 2.0], "▁ █"),
        ([math.nan], " "),
        ([-math.inf, 1.0, 2.0, math.inf], "▁▁██"),
        ([math.inf], "█"),
        ([-sys.float_info.max, sys.float_info.max], "▁█"),
    ],
)
def test_each_value_is_a_character_as_high_as_it_is_large(values: list[float], drawn: str) -> None:
    assert sparkline(values) == drawn


def test_a_thinned_line_keeps_its_two_ends() -> None:
    assert thinned([1.0, 2.0], 3) == [1.0, 2.0]
    line = thinned([float(n) for n in range(1000)], 24)
    assert (len(line), line[0], line[-1]) == (24, 0.0, 999.0)
    assert line == sorted(line)


def test_the_smallest_numbers_and_the_largest_ones_are_drawn() -> None:
    assert sparkline([5e-324, 0.0]) == "█▁"
    assert sparkline([-1.7e308, 1.7e308]) == "▁█"
