"""What torch holds on the GPUs, put where the agent reads it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.sdk_tools import Store, eventually
from tailrace import Tracker
from tailrace._session.torch_memory import TorchMemory
from tailrace_agent.sampler.torch_memory import TorchSource, torch_board


def test_torchs_memory_is_told_by_the_process_that_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = TorchSource(torch_board(tmp_path, os.getpid()))
    memory = TorchMemory(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    memory.look()
    assert source.sample(0.0) == {}
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 2,
        memory_reserved=[0, 8_000_000].__getitem__,
        memory_allocated=[0, 5_000_000].__getitem__,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
    memory.look()
    memory.look()  # at most once a second
    expected = {"gpu_1_torch_allocated_megabytes": 5.0, "gpu_1_torch_reserved_megabytes": 8.0}
    assert source.sample(1.0) == expected
    assert source.sample(2.0) == {}, "what was not measured anew is absent"
    memory._next = 0.0
    cuda.is_initialized = lambda: False
    memory.look()
    assert source.sample(3.0) == {}


@pytest.mark.slow
def test_torchs_memory_comes_with_the_calls(tracker: Tracker, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 1,
        memory_reserved=lambda _: 8_000_000,
        memory_allocated=lambda _: 5_000_000,
    )
    with tracker.start_run() as run, tracker.system_monitor() as monitor, monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]

        def told() -> bool:
            for step in range(500):  # about two of them look
                run.log(step=step, loss=0.5)
            return "system/gpu_0_torch_reserved_megabytes" in monitor.latest()

        eventually(told)
    assert Store(sqlite_uri, run).run.data.metrics["system/gpu_0_torch_allocated_megabytes"] == 5.0
