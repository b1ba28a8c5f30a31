"""What users pass as metric values and params becomes floats and strings, or a reason."""

from __future__ import annotations

import dataclasses
import enum
import math
import subprocess
import sys
from argparse import Namespace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailrace._values.numbers import NotANumber, NotReady, flatten_params, split, to_number

NUMPY_SCALARS = [np.float16, np.float32, np.float64, np.longdouble, np.int8, np.uint64, np.int64, np.bool_]
TORCH_TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("kind", NUMPY_SCALARS)
def test_a_numpy_scalar_is_a_number_the_first_time_and_the_next(kind: Any) -> None:
    assert to_number(kind(1)) == 1.0
    assert to_number(kind(1)) == 1.0
    assert type(to_number(kind(1))) is float


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_a_cpu_tensor_of_one_element_is_a_number(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert to_number(torch.ones(shape, dtype=dtype)) == 1.0


@pytest.mark.filterwarnings("error")
def test_a_tensor_that_requires_grad_is_a_number_without_a_warning() -> None:
    assert to_number(torch.tensor(0.25, requires_grad=True)) == 0.25
    assert to_number(torch.nn.Parameter(torch.tensor([0.25]))) == 0.25


class OwnFloat:
    def __float__(self) -> float:
        return 2.5


class OwnIndex:
    def __index__(self) -> int:
        return 7


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("value", "number"),
    [
        (Decimal("1.5"), 1.5),
        (Fraction(1, 4), 0.25),
        (OwnFloat(), 2.5),
        (OwnIndex(), 7.0),
        (Level.HIGH, 3.0),
        (2**70, 2.0**70),
        (True, 1.0),
        (np.array(3), 3.0),
        (np.array([[2.5]], dtype=np.float32), 2.5),
        (np.array(Decimal("0.5"), dtype=object), 0.5),
        (pd.Series([1.5]), 1.5),
    ],
)
def test_anything_that_is_one_number_is_taken(value: object, number: float) -> None:
    assert to_number(value) == number


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("3", "str is no number"),
        (b"3", "bytes is no number"),
        (np.str_("3"), "numpy.str_ is no number"),
        (None, "NoneType is no number"),
        (1j, "complex is no number"),
        (np.complex64(1), "no number"),
        (np.timedelta64(3, "ns"), "no number"),
        (np.array(3, dtype="m8[ns]"), "no number"),
        (np.datetime64("2020-01-01"), "no number"),
        (np.array("3"), "numpy.ndarray"),
        (np.array([1.0, 2.0]), "shape (2,)"),
        (np.array([]), "shape (0,)"),
        (pd.Series([1.0, 2.0]), "shape (2,)"),
        (torch.zeros(2, 3), "shape (2, 3)"),
        (torch.zeros(0), "shape (0,)"),
        (torch.tensor(1j), "complex"),
        (torch.zeros((), device="meta"), "meta"),
        ([1.0], "list is no number"),
        ({}, "dict is no number"),
        (object(), "object is no number"),
        (10**400, "too large"),
        (Fraction(10**400), "too large"),
    ],
)
def test_what_is_no_number_is_refused_with_its_type_or_shape(value: object, says: str) -> None:
    with pytest.raises(NotANumber) as caught:
        to_number(value)
    assert says in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_a_number_that_fails_to_convert_is_refused_with_its_own_words() -> None:
    class Broken:
        def __float__(self) -> float:
            raise RuntimeError("no luck")

    with pytest.raises(NotANumber, match="Broken: RuntimeError: no luck"):
        to_number(Broken())


class OnAnotherDevice(torch.Tensor):
    """A CPU tensor that says it is elsewhere, and fails when it is read."""

    @property
    def device(self) -> Any:  # type: ignore[override]
        return torch.device("cuda", 0)

    def item(self) -> Any:
        raise AssertionError("waited for the device")

    def __float__(self) -> float:
        raise AssertionError("waited for the device")


def elsewhere(value: torch.Tensor) -> torch.Tensor:
    return value.as_subclass(OnAnotherDevice)


def test_a_tensor_on_another_device_is_not_ready_and_is_not_read() -> None:
    tensor = elsewhere(torch.tensor(1.0))
    with pytest.raises(NotReady) as caught:
        to_number(tensor)
    assert caught.value.value is tensor


def test_a_tensor_of_many_elements_on_another_device_is_bad_at_once() -> None:
    with pytest.raises(NotANumber, match=r"shape \(4,\)"):
        to_number(elsewhere(torch.zeros(4)))


class JaxLike:
    """As much of a `jax.Array` as matters here."""

    shape = ()

    def __init__(self, platform: str, ready: bool) -> None:
        self.platform = platform
        self._ready = ready

    def devices(self) -> set[JaxLike]:
        return {self}

    def is_ready(self) -> bool:
        return self._ready

    def copy_to_host_async(self) -> None: ...

    def __float__(self) -> float:
        assert self._ready
        return 4.0


def test_a_jax_array_is_read_only_when_it_is_ready_and_on_the_cpu() -> None:
    assert to_number(JaxLike("cpu", ready=True)) == 4.0
    for array in (JaxLike("cpu", ready=False), JaxLike("gpu", ready=True)):
        with pytest.raises(NotReady):
            to_number(array)


@given(st.floats() | st.integers(-(2**63), 2**64 - 1))
def test_the_hot_encoder_gives_the_same_number_for_numpy_and_for_python(value: float) -> None:
    encoder = msgspec.msgpack.Encoder(enc_hook=to_number, decimal_format="number")
    decoder = msgspec.msgpack.Decoder(dict[str, float], strict=False)
    decoded = decoder.decode(encoder.encode({"plain": value, "numpy": np.float64(value)}))
    assert decoded["numpy"] == float(value) or math.isnan(float(value))
    assert decoded["plain"] == float(value) or math.isnan(float(value))


def test_splitting_tells_numbers_tensors_and_mistakes_apart() -> None:
    tensor = elsewhere(torch.tensor(1.0))
    parts = split({"a": 1, "big": 2**80, "t": tensor, "s": "x", "n": None, 3: 1.0, None: 2.0, np.str_("k"): 0.5})
    assert parts.numbers == {"a": 1.0, "big": float(2**80), "k": 0.5}
    assert all(type(key) is str for key in parts.numbers)
    assert list(parts.deferred) == ["t"]
    assert parts.deferred["t"] is tensor
    assert parts.bad == [
        ("s", "str is no number"),
        ("n", "NoneType is no number"),
        ("3", "the key is int, not str"),
        ("None", "the key is NoneType, not str"),
    ]


@given(st.dictionaries(st.text() | st.integers(), st.floats() | st.text() | st.integers() | st.none()))
def test_splitting_never_raises_and_loses_no_key(metrics: dict[Any, Any]) -> None:
    parts = split(metrics)
    assert len(parts.numbers) + len(parts.deferred) + len(parts.bad) == len(metrics)


@dataclasses.dataclass
class Optimizer:
    name: str = "adam"
    lr: float = 0.1


class Color(enum.Enum):
    RED = 1


class Mode(str, enum.Enum):
    FAST = "fast"


def test_nested_params_become_dotted_names_and_strings() -> None:
    flat, collisions, _ = flatten_params(
        {
            "model": {"layers": [1, 2], "head": {"dim": 8}, 3: True},
            "optimizer": Optimizer(),
            "args": Namespace(seed=1),
            "path": Path("data"),
            "color": Color.RED,
            "mode": Mode.FAST,
            "level": Level.HIGH,
            "none": None,
            "empty": {},
            "kind": Optimizer,
        }
    )
    assert flat == {
        "model.layers": "[1, 2]",
        "model.head.dim": "8",
        "model.3": "True",
        "optimizer.name": "adam",
        "optimizer.lr": "0.1",
        "args.seed": "1",
        "path": "data",
        "color": "Color.RED",
        "mode": "fast",
        "level": "3",
        "none": "None",
        "empty": "{}",
        "kind": str(Optimizer),
    }
    assert collisions == []


def test_names_that_come_up_twice_are_reported_and_the_first_value_stays() -> None:
    flat, collisions, _ = flatten_params({"a.b": 1, "a": {"b": 2}, 1: "x", "1": "y"})
    assert flat == {"a.b": "1", "1": "x"}
    assert collisions == ["a.b", "1"]


def test_params_that_contain_themselves_come_to_an_end() -> None:
    params: dict[str, Any] = {"x": 1}
    params["again"] = {"deeper": params}
    assert flatten_params(params).params == {"x": "1", "again.deeper": "{...}"}


def test_params_nested_without_end_come_to_an_end() -> None:
    deep: dict[str, Any] = {"end": 1}
    for _ in range(500):
        deep = {"a": deep}
    (name,) = flatten_params(deep).params
    assert name.count("a") == 32


def test_params_that_are_no_mapping_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="not list"):
        flatten_params([1])


HEAVY = ["mlflow", "torch", "pandas", "numpy", "psutil", "rich", "structlog", "subprocess", "dataclasses"]


def test_none_of_these_modules_loads_anything_heavy() -> None:
    script = f"""
import sys
import tailrace._artifacts.documents, tailrace._artifacts.snapshot
import tailrace._background.lane, tailrace._log.gpu_values, tailrace._values.numbers
print([name for name in {HEAVY} + ["PIL", "matplotlib", "yaml", "shutil", "json"] if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("raises", ["shape", "dtype", "item", "__float__"])
def test_whatever_a_foreign_class_raises_when_it_is_asked_it_is_no_number(raises: str) -> None:
    class Foreign:
        shape = ()

        def __getattribute__(self, name: str) -> Any:
            if name == raises:
                raise KeyError("deleted")
            return object.__getattribute__(self, name)

        def __float__(self) -> float:
            raise KeyError("deleted")

    parts = split({"a": Foreign(), "b": 1.0})
    assert parts.numbers == {"b": 1.0}
    assert [(key, reason.rpartition(": ")[2]) for key, reason in parts.bad] == [("a", "'deleted'")]
