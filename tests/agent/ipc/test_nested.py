"""Metrics in mappings of mappings come as flat ones, and what cannot be read stays as it is."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator, Mapping
from typing import Any

from tailrace_agent.ipc.nested import flat_items


def test_names_are_joined_and_below_a_name_whole_numbers_are_names_too() -> None:
    nested = {"loss": 1.0, "val": {"loss": 2.0, "class": {0: 0.5, 1: 0.25}}}
    assert dict(flat_items(nested)) == {"loss": 1.0, "val/loss": 2.0, "val/class/0": 0.5, "val/class/1": 0.25}


def test_items_come_in_their_order_and_a_name_that_comes_twice_comes_twice() -> None:
    assert list(flat_items({"a": {"b": 1}, "a/b": 2, "c": 3})) == [("a/b", 1), ("a/b", 2), ("c", 3)]


def test_a_name_that_is_none_stays_with_its_value_whatever_that_is() -> None:
    assert list(flat_items({3: 1.0, None: {"a": 1}, 4: {"a": 1}})) == [(3, 1.0), (None, {"a": 1}), (4, {"a": 1})]
    assert list(flat_items({"val": {(1, 2): 1.0}})) == [(("val", (1, 2)), 1.0)]


def test_an_empty_mapping_stays_so_that_it_is_reported() -> None:
    assert list(flat_items({"val": {}})) == [("val", {})]


def test_a_mapping_of_any_class_is_one() -> None:
    assert list(flat_items(UserDict(val=UserDict(loss=1.0)))) == [("val/loss", 1.0)]


def test_a_mapping_that_contains_itself_comes_to_an_end() -> None:
    circle: dict[str, Any] = {"loss": 1.0}
    circle["self"] = circle
    found = list(flat_items({"val": circle}))
    assert found[0] == ("val/loss", 1.0)
    assert found[1][0] == "val/self"
    assert found[1][1] is circle
    twice = {"loss": 2.0}  # the same one beside itself is no circle
    assert list(flat_items({"a": twice, "b": twice})) == [("a/loss", 2.0), ("b/loss", 2.0)]


def test_a_mapping_that_makes_others_without_end_comes_to_an_end() -> None:
    class Endless(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Endless:
            return Endless()

        def __iter__(self) -> Iterator[str]:
            return iter(["a"])

        def __len__(self) -> int:
            return 1

    ((name, value),) = flat_items({"top": Endless()})
    assert 10 < name.count("/a") < 100
    assert isinstance(value, Endless)


def test_a_mapping_that_cannot_be_read_stays_and_costs_no_other() -> None:
    class Broken(UserDict[str, float]):
        def items(self) -> Any:
            raise RuntimeError("changed while it was read")

    broken = Broken(a=1.0)
    assert list(flat_items({"x": broken, "y": {"z": 2.0}})) == [("x", broken), ("y/z", 2.0)]
