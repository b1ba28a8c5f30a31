"""Params of other libraries: flattened by what they hold, in one another; what cannot be read costs nothing else."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import msgspec
import numpy as np
import omegaconf
import pydantic
import pydantic.v1
import pytest
from ml_collections import ConfigDict, FrozenConfigDict, config_dict
from omegaconf import OmegaConf

from tailrace._values.params import FlatParams, flatten_params, plain_config, unreadable_line


class Name(enum.Enum):
    ADAM = "adam"


class Depth(enum.Enum):
    SHALLOW = enum.auto()


class Adam(pydantic.BaseModel):
    lr: float = 0.1
    token: pydantic.SecretStr = pydantic.SecretStr("hunter2")


class OldAdam(pydantic.v1.BaseModel):
    lr: float = 0.1
    token: pydantic.v1.SecretStr = pydantic.v1.SecretStr("hunter2")


class Free(pydantic.BaseModel, extra="allow"):
    known: int = 1
    _private: int = 2


class Layers(pydantic.RootModel[list[int]]):
    pass


@attrs.define
class Slots:
    units: int = 8
    kind: Name = Name.ADAM


class Struct(msgspec.Struct):
    depth: int = 2


class Point(NamedTuple):
    x: int = 1
    y: float = 2.5


@dataclasses.dataclass
class Structured:
    lr: float = 0.1
    path: str = omegaconf.MISSING


@dataclasses.dataclass
class Holder:
    models: list[Any]
    inner: Any = None
    per_class: dataclasses.InitVar[int] = 0


def read(params: Any) -> dict[str, str]:
    flat = flatten_params(params)
    assert (flat.collisions, flat.unreadable) == ([], [])
    return flat.params


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Adam(), {"lr": "0.1", "token": "**********"}),
        (OldAdam(), {"lr": "0.1", "token": "**********"}),
        (Free(free="x"), {"known": "1", "free": "x"}),  # type: ignore[call-arg]
        (Slots(), {"units": "8", "kind": "adam"}),
        (Struct(), {"depth": "2"}),
        (Point(), {"x": "1", "y": "2.5"}),
        (Holder([1, 2]), {"models": "[1, 2]", "inner": "None"}),
        (argparse.Namespace(seed=1, nested=argparse.Namespace(a=2)), {"seed": "1", "nested.a": "2"}),
        (types.SimpleNamespace(seed=1, path=Path("data")), {"seed": "1", "path": "data"}),
        (
            OmegaConf.create({"a": {"b": 1}, "c": "${a.b}", "l": [1, {"x": 2}]}),
            {"a.b": "1", "c": "1", "l": "[1, {'x': 2}]"},
        ),
        (ConfigDict({"a": {"b": 1}, "t": (1, 2)}), {"a.b": "1", "t": "(1, 2)"}),
        (FrozenConfigDict({"a": {"b": 1}}), {"a.b": "1"}),
        (collections.UserDict({"a": {"b": 1}}), {"a.b": "1"}),
        (types.MappingProxyType({"a": 1}), {"a": "1"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_other_libraries_hold_becomes_named_params_also_below_a_name(value: Any, expected: dict[str, str]) -> None:
    assert read(value) == expected
    assert read({"below": value}) == {f"below.{name}": text for name, text in expected.items()}


def test_models_in_one_another_are_flattened_through_whatever_holds_them() -> None:
    nested = {
        "run": Holder(
            [Adam(), {"s": Struct()}, Point()],
            inner=types.SimpleNamespace(slots=Slots(), cfg=OmegaConf.create({"a": 1})),
        )
    }
    assert read(nested) == {
        "run.models": "[{'lr': 0.1, 'token': '**********'}, {'s': {'depth': 2}}, {'x': 1, 'y': 2.5}]",
        "run.inner.slots.units": "8",
        "run.inner.slots.kind": "adam",
        "run.inner.cfg.a": "1",
    }


def test_a_list_stays_one_param_written_by_what_its_items_hold() -> None:
    assert read(
        {
            "numbers": [1, 0.5, None, "a"],
            "tuple": (0.9, 0.999),
            "set": {7},
            "frozen": frozenset(),
            "paths": [Path("a"), Path("b")],
            "enums": [Name.ADAM, Depth.SHALLOW],
            "numpy": [np.float32(0.1), np.int64(3), np.bool_(True), np.str_("s")],
            "deque": collections.deque([1, 2]),
            "list_config": OmegaConf.create([1, {"a": [2]}]),
            "root": Layers([1, 2]),
            "in_a_tuple": (Point(),),
            "text": "[not a list]",
            "bytes": b"x",
        }
    ) == {
        "numbers": "[1, 0.5, None, 'a']",
        "tuple": "(0.9, 0.999)",
        "set": "{7}",
        "frozen": "set()",
        "paths": "['a', 'b']",
        "enums": "['adam', 'Depth.SHALLOW']",
        "numpy": "[0.1, 3, True, 's']",
        "deque": "[1, 2]",
        "list_config": "[1, {'a': [2]}]",
        "root": "[1, 2]",
        "in_a_tuple": "({'x': 1, 'y': 2.5},)",
        "text": "[not a list]",
        "bytes": "b'x'",
    }


def test_single_values_are_what_they_hold() -> None:
    class Spoken(enum.Enum):
        ONE = "one"

        def __str__(self) -> str:
            return "number one"

    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            return self

    assert read(
        {
            "enum": Name.ADAM,
            "auto": Depth.SHALLOW,
            "spoken": Spoken.ONE,
            "float32": np.float32(0.1),
            "int64": np.int64(3),
            "date": np.datetime64("2020-01-01T00:00:00.000000001"),
            "array": np.array([1, 2]),
            "secret": pydantic.SecretStr("hunter2"),
            "empty": types.SimpleNamespace(),
            "text": Text("text"),
            Name.ADAM: "as a key",
        }
    ) == {
        "enum": "adam",
        "auto": "Depth.SHALLOW",
        "spoken": "number one",
        "float32": "0.1",
        "int64": "3",
        "date": "2020-01-01T00:00:00.000000001",
        "array": "[1 2]",
        "secret": "**********",
        "empty": "{}",
        "text": "text",
        "adam": "as a key",
    }
    assert type(read({"text": Text("text")})["text"]) is str


class Halfway(Mapping[str, int]):
    """Its `items()` raises after the first, and one of its values, too."""

    def __getitem__(self, key: str) -> int:
        if key == "bad":
            raise OSError("no such disk")
        return len(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["good", "bad", "fine"])

    def __len__(self) -> int:
        return 3


class EndsEarly(Halfway):
    def __iter__(self) -> Iterator[str]:
        yield "good"
        raise RuntimeError("the rest is gone")


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no words\nand more")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Described:
    """A descriptor that a dataclass holds as its field."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return 1
        raise self._error

    def __set__(self, instance: object, value: object) -> None:
        pass


@dataclasses.dataclass
class Descriptors:
    good: int = 1
    lost: Any = Described(AttributeError("lost"))
    deep: Any = Described(RecursionError("too deep"))
    mute: Any = Described(Speechless())


def test_what_cannot_be_read_is_left_out_by_itself() -> None:
    missing = config_dict.ConfigDict({"a": 1})
    missing.required = config_dict.required_placeholder(int)
    flat = flatten_params(
        {
            "omega": OmegaConf.create({"a": 1, "b": "???", "c": "${nope}", "d": {"e": "???", "f": 2}, "g": [1, "???"]}),
            "structured": OmegaConf.structured(Structured),
            "ml": missing,
            "half": Halfway(),
            "early": EndsEarly(),
            "broken": Broken(),
            "list": [1, Broken(), {"x": Broken(), "y": 2}],
            "fields": Descriptors(),
            "number": 10**5000,
            Broken(): 1,
            "last": 1,
        }
    )
    assert flat.params == {
        "omega.a": "1",
        "omega.d.f": "2",
        "omega.g": "[1, '???']",
        "structured.lr": "0.1",
        "ml.a": "1",
        "half.good": "4",
        "half.fine": "4",
        "early.good": "4",
        "list": "[1, '???', {'y': 2}]",
        "fields.good": "1",
        "<Broken without a str()>": "1",
        "last": "1",
    }
    assert {name: why for name, why in flat.unreadable if name != "number"} == {
        "omega.b": "MissingMandatoryValue: Missing mandatory value: omega.b".replace("omega.", ""),
        "omega.c": "InterpolationKeyError: Interpolation key 'nope' not found",
        "omega.d.e": "MissingMandatoryValue: Missing mandatory value: d.e",
        "omega.g[1]": "MissingMandatoryValue: Missing mandatory value: g[1]",
        "structured.path": "MissingMandatoryValue: Missing mandatory value: path",
        "ml.required": "RequiredValueError: None value found in required reference",
        "half.bad": "OSError: no such disk",
        "early.…": "RuntimeError: the rest is gone",
        "broken": "RuntimeError: no words",
        "list[1]": "RuntimeError: no words",
        "list[2].x": "RuntimeError: no words",
        "fields.lost": "AttributeError: lost",
        "fields.deep": "RecursionError: too deep",
        "fields.mute": "Speechless",
    }
    assert "number" in dict(flat.unreadable)


def test_a_whole_that_gives_no_entry_at_all_is_one_unreadable_param() -> None:
    class Closed(Halfway):
        def __iter__(self) -> Iterator[str]:
            raise OSError("closed")

    assert flatten_params(Closed()) == FlatParams({}, [], [("…", "OSError: closed")])  # type: ignore[list-item]

    class Lying:
        @property
        def __class__(self) -> Any:
            raise OSError("who am I")

    assert [each.why for each in flatten_params({"x": Lying(), "y": 1}).unreadable] == ["OSError: who am I"]


def test_cycles_of_any_kind_and_values_that_never_end_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace._values.params.MOST", 5000)
    ring = types.SimpleNamespace(a=1)
    ring.self, ring.list = ring, [ring]
    assert read({"ring": ring}) == {"ring.a": "1", "ring.self": "{...}", "ring.list": "['...']"}
    left, right = OmegaConf.create({"a": "${b}", "b": "${a}"}), 1
    assert len(flatten_params({"left": left, "right": right}).unreadable) == 2

    class Endless(Halfway):
        def __getitem__(self, key: str) -> Any:
            return Endless()

    flat = flatten_params({"x": Endless(), "after": 1})
    assert max(map(len, [name.split(".") for name in flat.params])) <= 34
    assert any("more than 5,000 params" in each.why for each in flat.unreadable)
    shared: Any = 1
    for _ in range(40):
        shared = [shared, shared]
    assert len(flatten_params({"laughs": shared}).params["laughs"]) < 100_000
    unsure: Any = types.SimpleNamespace()
    for _ in range(2000):
        unsure = types.SimpleNamespace(a=[unsure])
    assert len(flatten_params(unsure).params) == 1


def test_a_configuration_is_plain_and_leaves_out_what_cannot_be_read() -> None:
    config = Holder([Adam(), Broken()], inner=OmegaConf.create({"a": "???", "b": Path("x"), "c": Name.ADAM}))
    missed: list[Any] = []
    assert plain_config(config, missed) == {
        "models": [{"lr": 0.1, "token": "**********"}, "???"],
        "inner": {"b": "x", "c": "adam"},
    }
    assert [name for name, _ in missed] == ["models[1]", "inner.a"]
    assert plain_config({"a": Broken(), "b": np.arange(2)}) == {"a": "???", "b": [0, 1]}
    assert plain_config(Point()) == {"x": 1, "y": 2.5}


def test_what_is_said_names_the_params_and_cannot_steer_a_terminal() -> None:
    unreadable = flatten_params({f"p{n}": Broken() for n in range(8)}).unreadable
    assert unreadable_line(unreadable[:1]) == "param 'p0' could not be read: RuntimeError: no words"
    assert unreadable_line(unreadable[:2]) == "params 'p0' and 'p1' could not be read; 'p0': RuntimeError: no words"
    assert unreadable_line(unreadable).startswith("params 'p0', 'p1', 'p2', 'p3', 'p4' and 3 more could not be read")

    class Loud:
        def __str__(self) -> str:
            raise ValueError("\x1b[2J" + "x" * 10_000)

    (line,) = flatten_params({"loud": Loud()}).unreadable
    assert line.why.isprintable()
    assert len(line.why) == 200


def test_nothing_of_theirs_is_imported() -> None:
    code = """
import sys, types
from tailrace._values.params import flatten_params
flatten_params({"a": types.SimpleNamespace(b=[1, {"c": 2}])})
print([name for name in ("pydantic", "attr", "attrs", "dataclasses", "omegaconf", "ml_collections", "argparse", "numpy")
       if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_config_that_contains_itself_ends_at_the_repetition() -> None:
    itself: dict[str, Any] = {"a": argparse.Namespace(b=[1, {2}])}
    itself["me"] = itself
    assert plain_config(itself) == {"a": {"b": [1, [2]]}, "me": "..."}
