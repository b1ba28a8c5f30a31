"""Values as people write them: numbers with units, flags, words, paths."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.settings.units import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8MB", 8_000_000),
        ("64 KiB", 65536),
        ("64kib", 65536),
        ("1.5 GiB", 3 * 2**29),
        (" 7 ", 7),
        ("1e3", 1000),
        (9, 9),
    ],
)
def test_sizes_are_read_with_decimal_and_binary_units(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30.0), ("2min", 120.0), ("1 h", 3600.0), ("0.25", 0.25), (3, 3.0), (0.5, 0.5)],
)
def test_durations_are_read_with_units(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


_BYTES = {"": 1, "B": 1, "KB": 1000, "KiB": 1024, "MB": 10**6, "MiB": 2**20, "GiB": 2**30}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_space = st.sampled_from(["", " ", "  "])


@given(st.integers(0, 10**6), st.sampled_from(sorted(_BYTES)), _space, st.booleans())
def test_a_size_written_out_reads_back_the_same(number: int, unit: str, space: str, lower: bool) -> None:
    text = f"{number}{space}{unit}"
    assert parse_size(text.lower() if lower else text) == number * _BYTES[unit]


@given(st.floats(0, 1e6), st.sampled_from(sorted(_SECONDS)), _space)
def test_a_duration_written_out_reads_back_the_same(number: float, unit: str, space: str) -> None:
    assert parse_duration(f"{number!r}{space}{unit}") == number * _SECONDS[unit]


@given(
    st.one_of(st.text(), st.none(), st.binary(), st.floats(), st.lists(st.integers()), st.integers(), st.just(10**400))
)
def test_whatever_is_given_as_a_size_or_duration_is_read_or_a_value_error(value: object) -> None:
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(ValueError):
            assert isinstance(parse(value), (int, float))
