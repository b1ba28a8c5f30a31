"""What a value holds: its fields by name, its items by place, and an `Unread` where foreign code raises."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from tailrace._values.parts import MOST, Unread, items_of, named_parts, text_of, unwrapped, why


@dataclasses.dataclass
class Data:
    a: int = 1

    @property
    def computed(self) -> int:
        raise AssertionError("no field, so it is not read")


class Struct(msgspec.Struct):
    a: int = 1


class Pair(NamedTuple):
    a: int = 1


class Partly:
    """A field that cannot be read, beside one that can."""

    __dataclass_fields__ = Data.__dataclass_fields__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("gone")


class Entries(Mapping[str, int]):
    """Gives no entries as a whole; one of its keys leads nowhere."""

    def __getitem__(self, key: str) -> int:
        if key == "bad":
            raise KeyError(key)
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "bad"])

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1},
        Data(),
        Struct(),
        Pair(),
        argparse.Namespace(a=1),
        types.SimpleNamespace(a=1),
        types.MappingProxyType({"a": 1}),
    ],
)
def test_what_has_fields_or_entries_has_named_parts(value: Any) -> None:
    assert named_parts(value) == [("a", 1)]


@pytest.mark.parametrize("value", [1, "text", b"bytes", [1], {1}, (1,), None, 1.5, object(), Data])
def test_what_has_none_of_its_own_has_no_named_parts(value: Any) -> None:
    assert named_parts(value) is None


def test_what_cannot_be_read_stands_beside_what_can() -> None:
    assert named_parts(Partly()) == [("a", Unread("RuntimeError: gone"))]
    assert named_parts(Entries()) == [("a", 1), ("bad", Unread("KeyError: 'bad'"))]


def test_a_mapping_whose_keys_cannot_be_had_is_one_part_that_is_not_read() -> None:
    class NoKeys(Entries):
        def __iter__(self) -> Iterator[str]:
            raise OSError("no keys")

    assert named_parts(NoKeys()) == [("…", Unread("OSError: no keys"))]


def test_sequences_have_items_and_texts_and_ranges_have_none() -> None:
    assert items_of((1, 2)) == items_of([1, 2]) == items_of(collections.UserList([1, 2])) == [1, 2]
    assert items_of({3}) == [3]
    for value in ("text", b"bytes", bytearray(b"x"), range(3), {"a": 1}, iter([1]), 5):
        assert items_of(value) is None


def test_a_sequence_that_makes_new_items_for_as_long_as_it_is_read_comes_to_an_end() -> None:
    class Endless(collections.UserList[int]):
        def __len__(self) -> int:
            return 2**40

        def __getitem__(self, at: Any) -> Any:
            return at

    items = items_of(Endless())
    assert items is not None
    assert len(items) == MOST


class Level(enum.IntEnum):
    HIGH = 3


class Name(enum.Enum):
    ADAM = "adam"


class Depth(enum.Enum):
    SHALLOW = 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Level.HIGH, 3), (Name.ADAM, "adam"), (Depth.SHALLOW, "Depth.SHALLOW"), (np.float32(0.1), 0.1), (np.int8(3), 3),
        (np.bool_(True), True), (np.str_("a"), "a"), ([1], [1]), ("a", "a"),
    ],
)  # fmt: skip
def test_what_only_wraps_another_value_is_that_one(value: Any, expected: Any) -> None:
    assert unwrapped(value) == expected
    assert type(unwrapped(value)) is type(expected)


def test_a_numpy_date_stays_a_date_and_becomes_no_count() -> None:
    date = np.datetime64("2020-01-02")
    assert unwrapped(date) is date


def test_a_text_is_a_plain_one_whatever_class_it_was() -> None:
    class Own(str):
        __slots__ = ()

        def __str__(self) -> str:
            return self

    for text in (Own("a"), np.str_("a")):
        assert type(text_of(text)) is str
    assert (text_of(Name.ADAM), text_of(Level.HIGH), text_of(1.5)) == ("adam", "3", "1.5")


def test_an_error_is_one_line_that_cannot_steer_a_terminal() -> None:
    class Speechless(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert why(ValueError("first\x1b[31m\nsecond")) == "ValueError: first\\x1b[31m"
    assert why(ValueError()) == "ValueError"
    assert why(Speechless()) == "Speechless"
    long = why(ValueError("x" * 10_000))
    assert (len(long), long[-1]) == (200, "…")
