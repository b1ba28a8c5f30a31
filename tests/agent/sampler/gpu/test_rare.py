"""What is read rarely: counters, PCIe, the memory of processes."""

from __future__ import annotations

from collections import Counter

import pytest

from helpers.gpu_monitor import GPU_0, Monitor, of
from helpers.kept_log import KeptLog
from nvml.standin import Standin
from tailrace_agent.sampler.gpu.sources import gpu_sources


def test_counters_become_rates(nvml: Standin) -> None:
    monitor = Monitor("0")
    assert "gpu_0_nvlink_transmit_megabytes_per_second" not in monitor.sample(100)
    nvml.script("set 0 nvlink_transmit 2001000")
    assert monitor.sample(102)["gpu_0_nvlink_transmit_megabytes_per_second"] == pytest.approx(1024)
    nvml.script("set 0 nvlink_transmit 5")
    assert "gpu_0_nvlink_transmit_megabytes_per_second" not in monitor.sample(104)


def test_an_unsupported_argument_says_nothing_about_others(nvml: Standin) -> None:
    nvml.script("set 0 nvlink_problem 3")
    nvml.trace()
    values = Monitor("0").rounds(0, 5)
    asked = Counter(function for _, function, _ in nvml.calls())
    assert asked["nvmlDeviceGetFieldValues"] == 1
    assert of(0, values).keys() == {name for name in GPU_0 if "nvlink" not in name}


def test_the_sources_for_processes_need_to_know_them(nvml: Standin) -> None:
    assert len(gpu_sources(None, KeptLog())) == 4
    nvml.script("set 0 pid 4242")
    assert "gpu_0_process_memory_usage_megabytes" not in Monitor("0").sample(0), "not ours"
    assert Monitor("0", lambda: [1, 4242]).sample(0)["gpu_0_process_memory_usage_megabytes"] == 800
    nvml.script(f"set 0 pid_memory {2**64 - 1}")
    assert "gpu_0_process_memory_usage_megabytes" not in Monitor("0").sample(0), "not told"
    nvml.script("set 0 processes 0")
    assert "gpu_0_process_memory_usage_megabytes" not in Monitor("0").sample(0), "none"


def test_each_gpu_and_direction_has_its_turn_since_each_call_blocks(nvml: Standin) -> None:
    monitor = Monitor()
    monitor.sample(0)
    pcie = monitor.sources[3]
    found = [set(pcie.sample(now)) for now in range(1, 9)]
    assert all(len(each) == 1 for each in found)
    assert len(set[str]().union(*found[:4])) == 4
    assert found[:4] == found[4:]


def test_where_no_gpu_is_open_nothing_is_asked_and_no_turn_is_lost(nvml: Standin) -> None:
    monitor = Monitor()
    nvml.trace()
    for source in monitor.sources[1:]:
        assert source.sample(0) == {}
    assert nvml.calls() == []


def test_a_counter_that_is_refused_leaves_the_other_one(nvml: Standin) -> None:
    nvml.script("fail nvmlDeviceGetTotalEccErrors 0 3")
    values = Monitor("0").rounds(0)
    assert not [name for name in values if "ecc" in name]
    assert "gpu_0_nvlink_receive_megabytes_per_second" in values
