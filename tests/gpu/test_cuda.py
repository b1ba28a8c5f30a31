"""The deferred copy on a real GPU. Needs one; `tests/sdk/log/test_gpu_values.py` is what a CPU machine can show."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tailrace._background.lane import Lane  # noqa: E402 - torch first, so that its absence is a skip
from tailrace._log.gpu_values import DeferredValues  # noqa: E402
from tailrace._values.numbers import NotReady, split, to_number  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.fixture
def busy() -> Any:
    """Keeps the GPU busy for some 50 ms from now on the current stream."""
    torch.zeros(1, device="cuda")
    DeferredValues({"warm": torch.zeros((), device="cuda")})
    torch.cuda.synchronize()
    return lambda: torch.cuda._sleep(100_000_000)


@pytest.fixture
def no_sync() -> Any:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def wait_for(values: DeferredValues) -> dict[str, float]:
    end = time.monotonic() + 30
    while not values.ready():
        assert time.monotonic() < end
        time.sleep(0.001)
    return values.numbers()


def test_a_cuda_tensor_is_not_ready_and_is_not_waited_for(busy: Any, no_sync: None) -> None:
    loss = torch.full((), 0.25, device="cuda")
    busy()
    with pytest.raises(NotReady):
        to_number(loss)
    assert list(split({"loss": loss, "a": 1.0}).deferred) == ["loss"]


def test_the_call_returns_while_the_gpu_is_busy_and_the_value_is_the_one_of_the_call(busy: Any, no_sync: None) -> None:
    loss = torch.full((), 0.25, device="cuda")
    busy()
    values = DeferredValues({"loss": loss})
    loss.fill_(99.0)
    assert not values.ready(), "the call waited for the GPU"
    assert wait_for(values) == {"loss": 0.25}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "uint8", "bool"])
def test_every_real_dtype_comes_home_from_the_gpu(dtype: str, no_sync: None) -> None:
    tensor = torch.ones(1, 1, device="cuda", dtype=getattr(torch, dtype))
    assert wait_for(DeferredValues({"x": tensor})) == {"x": 1.0}


def test_shapes_are_refused_without_a_sync(busy: Any, no_sync: None) -> None:
    tensor = torch.zeros(3, device="cuda")
    busy()
    assert DeferredValues({"x": tensor}).bad == [("x", "a tensor of shape (3,), not one element")]


def test_a_value_of_a_side_stream_is_the_one_of_that_stream(busy: Any) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        busy()
        loss = torch.ones((), device="cuda") * 3
        values = DeferredValues({"loss": loss})
        loss.zero_()
    assert wait_for(values) == {"loss": 3.0}


def test_thousands_of_steps_give_each_its_own_value_through_the_lane() -> None:
    lane, seen, errors = Lane(), {}, []
    loss = torch.zeros((), device="cuda")
    for step in range(3000):
        loss.fill_(step)
        values = DeferredValues({"loss": loss})
        assert lane.watch(
            values.ready,
            lambda values=values, step=step: seen.__setitem__(step, values.numbers()["loss"]),
            on_error=errors.append,
        )
    assert lane.drain(30)
    assert errors == []
    assert seen == {step: float(step) for step in range(3000)}


def test_polling_does_not_break_a_graph_that_another_thread_captures() -> None:
    lane, errors, over = Lane(), [], threading.Event()
    x = torch.ones(4, device="cuda")
    torch.cuda.synchronize()
    warm = torch.cuda.Stream()
    with torch.cuda.stream(warm):
        (x * 2).sum()
    torch.cuda.synchronize()
    pending = DeferredValues({"x": x.sum()})
    # Never over until told so: the lane goes on asking the event while the graph is captured.
    lane.watch(lambda: pending.ready() and over.is_set(), lambda: None, on_error=errors.append)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = (x * 2).sum()
        inside = DeferredValues({"y": y})
        time.sleep(0.1)
    over.set()
    assert lane.drain(10)
    graph.replay()
    torch.cuda.synchronize()
    assert y.item() == 8.0
    assert errors == []
    assert "CUDA graph" in inside.bad[0][1]
    assert pending.numbers() == {"x": 4.0}
