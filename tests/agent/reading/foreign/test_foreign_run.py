"""Names of other trackers: flat, and as paths."""

from __future__ import annotations

import math
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.reading.foreign.foreign_run import as_float, flat, place_of


def test_nested_values_are_named_by_all_levels() -> None:
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": {}}) == {"a.b": 1, "a.c.d": 2, "e": {}}


def test_a_number_of_any_size_is_one() -> None:
    assert [as_float(value) for value in (1, 0.5, True, 10**400, -(10**400))] == [1.0, 0.5, 1.0, math.inf, -math.inf]


@given(st.text(max_size=300) | st.text("./ab ", max_size=40))
def test_any_name_is_a_path_that_leads_nowhere_else(name: str) -> None:
    place = PurePosixPath(place_of(name))
    assert not place.is_absolute()
    assert ".." not in place.parts
    assert 0 < len(place.parts) <= 16
    assert max(map(len, place.parts)) < 120
    assert str(place) == place_of(name)


@pytest.mark.parametrize(
    "names", [("a?b", "a!b", "a_b"), ("a/b", "a//b", "/a/b"), ("x" * 400, "x" * 401), ("", "untitled")]
)
def test_two_names_are_two_paths(names: tuple[str, ...]) -> None:
    assert len({place_of(name) for name in names}) == len(names)
    assert place_of("eval/answers 1.2") == "eval/answers 1.2"
