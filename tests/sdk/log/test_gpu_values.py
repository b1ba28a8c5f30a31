"""Numbers come home from a device without a wait, as they were at the call.

The tensors here are torch's own, on the CPU; a stand-in takes the place of the device's events and pinned memory, at
the edge only. `tests/gpu/test_cuda.py` does the same with a real GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.devices import StandIn, deferred
from tailrace._log.devices import Pool
from tailrace._log.gpu_values import DeferredValues


def test_a_value_is_the_one_of_the_call_whatever_becomes_of_the_tensor() -> None:
    device = StandIn()
    loss = torch.tensor(0.25)
    values = deferred({"loss": loss}, device)
    loss.zero_()
    assert not values.ready()
    device.finish()
    assert values.ready()
    assert values.numbers() == {"loss": 0.25}
    assert values.bad == []


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]
)
def test_every_real_dtype_comes_home(dtype: torch.dtype, pinned: bool) -> None:
    device = StandIn(pinned=pinned)
    values = deferred({"a": torch.ones((), dtype=dtype), "b": torch.ones(1, 1, dtype=dtype)}, device)
    device.finish()
    assert values.numbers() == {"a": 1.0, "b": 1.0}


def test_a_tensor_of_a_graph_comes_home_and_the_graph_is_as_before() -> None:
    device = StandIn()
    weight = torch.tensor(3.0, requires_grad=True)
    loss = weight * weight
    values = deferred({"loss": loss, "weight": weight}, device)
    loss.backward()
    device.finish()
    assert values.numbers() == {"loss": 9.0, "weight": 3.0}
    assert weight.grad is not None
    assert weight.grad.item() == 6.0


def test_one_event_is_recorded_for_all_values_of_a_device() -> None:
    device = StandIn()
    deferred({key: torch.tensor(1.0) for key in "abcdef"}, device)
    assert len(device.marks) == 1


def test_what_is_no_single_number_is_bad_at_once_and_the_rest_goes_on() -> None:
    device = StandIn()
    values = deferred(
        {"many": torch.zeros(3), "complex": torch.tensor(1j), "text": "x", "good": torch.tensor(2)}, device
    )
    assert dict(values.bad) == {
        "many": "a tensor of shape (3,), not one element",
        "complex": "a tensor of torch.complex64 is no real number",
        "text": "str is no number",
    }
    device.finish()
    assert values.numbers() == {"good": 2.0}


def test_nothing_is_put_into_a_graph_that_is_being_captured() -> None:
    values = deferred({"loss": torch.tensor(1.0)}, StandIn(obstacle="a CUDA graph is being captured"))
    assert values.bad == [("loss", "a CUDA graph is being captured")]
    assert values.ready()
    assert values.numbers() == {}


def test_a_device_without_pinned_memory_is_cloned_on_the_device() -> None:
    device = StandIn(pinned=False, events=False)
    loss = torch.tensor(0.5)
    values = deferred({"loss": loss}, device)
    loss.zero_()
    assert values.ready()
    assert values.numbers() == {"loss": 0.5}


def test_a_device_that_fails_ends_the_wait_with_a_reason_and_its_memory_is_not_used_again() -> None:
    device, pool = StandIn(), Pool(chunk=1)
    values = deferred({"loss": torch.tensor(1.0)}, device, pool)
    device.marks[0].error = RuntimeError("device-side assert")
    assert values.ready()
    assert values.numbers() == {}
    assert values.bad == [("loss", "the device failed: RuntimeError: device-side assert")]
    deferred({"loss": torch.tensor(1.0)}, device, pool)
    assert pool.allocated == 2


class JaxLike:
    """As much of a `jax.Array` as matters here."""

    shape = ()

    def __init__(self, *, deleted: bool = False) -> None:
        self.started = False
        self.ready = False
        self._deleted = deleted

    def copy_to_host_async(self) -> None:
        self.started = True

    def is_ready(self) -> bool:
        return self.ready

    def __float__(self) -> float:
        if self._deleted:
            raise RuntimeError("Array has been deleted")
        return 1.5


def test_a_jax_array_starts_its_copy_at_the_call_and_is_read_when_ready() -> None:
    array = JaxLike()
    values = DeferredValues({"loss": array})
    assert array.started
    assert not values.ready()
    array.ready = True
    assert values.ready()
    assert values.numbers() == {"loss": 1.5}


def test_a_donated_jax_array_is_reported_and_the_rest_goes_on() -> None:
    gone, good = JaxLike(deleted=True), JaxLike()
    gone.ready = good.ready = True
    values = DeferredValues({"gone": gone, "good": good})
    assert values.numbers() == {"good": 1.5}
    assert values.bad[0][0] == "gone"
    assert "deleted" in values.bad[0][1]


def test_an_array_without_a_copy_of_its_own_is_copied() -> None:
    array = np.array([2.0])
    values = DeferredValues({"x": array})
    array[0] = 0.0
    assert values.ready()
    assert values.numbers() == {"x": 2.0}
