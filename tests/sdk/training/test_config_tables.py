"""Tables of configurations become objects, or one clear error."""

from __future__ import annotations

import msgspec
import pytest

from tailrace import SettingsError
from tailrace.training.config_tables import read_struct


class Inner(msgspec.Struct):
    depth: int = 1


class Outer(msgspec.Struct):
    name: str
    inner: Inner = msgspec.field(default_factory=Inner)


def test_a_table_becomes_an_object() -> None:
    assert read_struct({"name": "x", "inner": {"depth": 3}}, Outer, "the config").inner.depth == 3
    assert read_struct({"name": "x"}, Outer, "the config").inner.depth == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "the config.name is missing"),
        ([], r"the config is \[\]; allowed: a table"),
        ({"name": "x", "iner": {}}, "the config.iner is no key there; did you mean 'inner'?"),
        ({"name": "x", "inner": {"dept": 1}}, "the config.inner.dept is no key there; did you mean 'depth'?"),
        ({"name": "x", "inner": {"depth": "3"}}, "the config.inner.depth: expected `int`, got `str`"),
        ({"name": 3}, "the config.name: expected `str`, got `int`"),
    ],
)
def test_a_mistake_names_its_place(table: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_struct(table, Outer, "the config")
