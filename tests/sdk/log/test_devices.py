"""The interface to accelerators: pinned memory that is used again, and what torch's modules offer."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from helpers.devices import StandIn, deferred
from tailrace._log.devices import Pool, TorchDeviceModule


def test_pinned_memory_is_used_again_once_it_has_been_read() -> None:
    device, pool = StandIn(), Pool(chunk=4)
    for step in range(20):
        values = deferred({"a": torch.tensor(float(step)), "b": torch.tensor(step)}, device, pool)
        device.finish()
        assert values.numbers() == {"a": step, "b": step}
        assert values.numbers() == {"a": step, "b": step}
    assert pool.allocated == 8


def test_the_pool_grows_while_copies_are_under_way_and_mixes_nothing_up() -> None:
    device, pool = StandIn(), Pool(chunk=4)
    under_way = [deferred({"x": torch.tensor(float(step))}, device, pool) for step in range(10)]
    assert pool.allocated == 12
    device.finish()
    assert [values.numbers()["x"] for values in under_way] == list(range(10))


def test_threads_share_the_pool_without_taking_the_same_memory() -> None:
    device, pool = StandIn(), Pool(chunk=8)
    wrong: list[tuple[float, float]] = []

    def work(worker: int) -> None:
        for step in range(100):
            expected = float(worker * 1000 + step)
            values = deferred({"x": torch.tensor(expected)}, device, pool)
            got = values.numbers()["x"]
            if got != expected:
                wrong.append((expected, got))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_values_logged_under_inference_mode_do_not_spoil_the_pool() -> None:
    device, pool = StandIn(), Pool(chunk=4)
    with torch.inference_mode():
        inside = deferred({"x": torch.tensor(1.0) + 1}, device, pool)
    assert inside.numbers() == {"x": 2.0}


def test_torchs_edge_knows_what_a_device_module_lacks() -> None:
    module = TorchDeviceModule("no_such_device")
    assert module.obstacle() is None
    assert module.slots(4, torch.float32) is None
    assert module.record(None) is None


def test_torchs_edge_records_on_the_current_stream_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[Any] = []

    class Module:
        class Event:
            def record(self, stream: Any = None) -> None:
                recorded.append(stream)

            def query(self) -> bool:
                return True

        @staticmethod
        def current_stream(device: Any) -> str:
            return f"stream of {device}"

        @staticmethod
        def is_current_stream_capturing() -> bool:
            return True

    monkeypatch.setattr(torch, "pretend", Module, raising=False)
    module = TorchDeviceModule("pretend")
    event = module.record("pretend:1")
    assert event is not None
    assert event.query()
    assert recorded == ["stream of pretend:1"]
    assert "CUDA graph" in str(module.obstacle())
