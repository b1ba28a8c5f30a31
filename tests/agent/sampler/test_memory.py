"""Memory and swap have MLflow's definitions, and a limit is the denominator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from helpers.control_groups import NONE_V1, Machine, inside, set_limit
from helpers.loads import NOWHERE, READY, WAIT, child, linux
from tailrace_agent.sampler.memory import MemorySource, SwapSource
from tailrace_agent.sampler.source import SourceGone

# ── The machine ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_memory_has_mlflows_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=8_000_000_000, used=2_000_000_000, available=5_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert MemorySource(proc=NOWHERE).sample(0.0) == {
        "system_memory_usage_megabytes": 2000.0,
        "system_memory_usage_percentage": 25.0,
        "system_memory_available_megabytes": 5000.0,
    }


@linux
def test_memory_agrees_with_proc_while_300_megabytes_are_taken() -> None:
    def taken() -> float:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("MemTotal", "MemAvailable"))
        return total - available

    # Compared with the kernel's figure of the same moment: a virtual machine gives freed memory back to its host at its
    # own pace, and others on this machine allocate, too. Exactly 300 MB are asked for where nobody else is:
    # below under a limit, and in test_process.py.
    source = MemorySource(proc=NOWHERE)
    hold = "block = bytearray(300_000_000)\nfor i in range(0, len(block), 4096): block[i] = 1\n"
    expected, before = taken(), source.sample(0.0)["system_memory_usage_megabytes"]
    with child(hold + READY + WAIT):
        grown = source.sample(1.0)["system_memory_usage_megabytes"] - before
        expected = taken() - expected
    assert grown == pytest.approx(expected, abs=50)


def test_a_machine_without_swap_has_no_swap_rather_than_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    swap = SimpleNamespace(total=0, used=0, sin=0, sout=0)
    monkeypatch.setattr(psutil, "swap_memory", lambda: swap)
    with pytest.raises(SourceGone):
        SwapSource().sample(0.0)


def test_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    swap = SimpleNamespace(total=4_000_000, used=1_000_000, sin=0, sout=2_000_000)
    monkeypatch.setattr(psutil, "swap_memory", lambda: swap)
    source = SwapSource()
    assert source.sample(0.0) == {"swap_usage_megabytes": 1.0, "swap_usage_percentage": 25.0}
    swap.sout = 12_000_000
    values = source.sample(10.0)
    assert values["swap_out_megabytes_per_second"] == 1.0
    assert values["swap_in_megabytes_per_second"] == 0.0


# ── The sources ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_memory_is_of_the_limit(machine: Machine) -> None:
    machine.v2()
    machine.process(7, "0::/job")
    machine.group("job", memory__max=10**9, memory__current=400_000_000, memory__stat="inactive_file 150000000")
    source = MemorySource(7, proc=machine.proc, root=machine.root)
    assert source.sample(100.0) == {
        "system_memory_usage_megabytes": 250.0,
        "system_memory_usage_percentage": 25.0,
        "system_memory_available_megabytes": 750.0,
    }
    assert source.tags()["system_memory_limit_megabytes"] == "1000"


def test_a_limit_that_is_changed_is_noticed(machine: Machine) -> None:
    machine.v2()
    machine.process(7, "0::/job")
    machine.group("job", memory__max=10**9, memory__current=10**8)
    source = MemorySource(7, proc=machine.proc, root=machine.root)
    assert source.sample(100.0)["system_memory_usage_percentage"] == 10.0
    machine.group("job", memory__max=2 * 10**9)
    assert source.sample(131.0)["system_memory_usage_percentage"] == 5.0


def test_no_limit_in_version_1_means_the_machines_memory(machine: Machine) -> None:
    machine.process(7, "1:memory:/job")
    machine.group("memory/job", memory__limit_in_bytes=NONE_V1, memory__usage_in_bytes=5)
    source = MemorySource(7, proc=machine.proc, root=machine.root)
    memory = psutil.virtual_memory()
    values = source.sample(100.0)
    assert values["system_memory_usage_megabytes"] == pytest.approx(memory.used / 1e6, abs=200)
    assert "system_memory_limit_megabytes" not in source.tags()


# ── A real one ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_memory_under_a_real_limit(make_group: Callable[[str], Path]) -> None:
    group = make_group("memory")
    v2 = (group / "memory.max").exists()
    set_limit(group, **{"memory__max" if v2 else "memory__limit_in_bytes": 600_000_000})
    hold = "block = bytearray(300_000_000)\nfor i in range(0, len(block), 4096): block[i] = 1\n"
    with inside([group], hold + "print('ready', flush=True)\ntime.sleep(60)") as child:
        values = MemorySource(child.pid).sample(0.0)
    assert values["system_memory_usage_megabytes"] == pytest.approx(310, abs=20)
    assert values["system_memory_usage_percentage"] == pytest.approx(52, abs=4)
