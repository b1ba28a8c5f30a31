"""What is queried of a GPU at each tick."""

from __future__ import annotations

import pytest

from helpers.gpu_monitor import Monitor
from helpers.kept_log import KeptLog
from nvml.standin import Standin
from tailrace_agent.sampler.guard import Guarded


def test_the_five_metrics_of_mlflow_equal_mlflows_own(nvml: Standin) -> None:
    gpu_monitor = pytest.importorskip("mlflow.system_metrics.metrics.gpu_monitor")
    theirs = gpu_monitor.GPUMonitor()
    theirs.collect_metrics()
    expected = theirs.aggregate_metrics()
    values = Monitor().rounds(100)
    assert len(expected) == 10
    assert {name: round(values[name], 1) for name in expected} == expected


def test_names_and_uuids_are_tags(nvml: Standin) -> None:
    monitor = Monitor("1,0")
    assert monitor.tags() == {}
    monitor.sample(0)
    assert monitor.tags() == {
        "gpu_driver_version": "550.54.15",
        "gpu_0_name": "Stand-in 1",
        "gpu_0_uuid": "GPU-b0000000-1111-2222-3333-444444444444",
        "gpu_1_name": "Stand-in 0",
        "gpu_1_uuid": "GPU-a0000000-1111-2222-3333-444444444444",
    }


def test_memory_that_is_not_told_is_absent(nvml: Standin) -> None:
    nvml.script("set 0 total 0", "set 0 used 0")
    assert not [name for name in Monitor("0").sample(0) if "memory_usage" in name and "process" not in name]


def test_one_passing_failure_of_the_only_query_is_no_loss(nvml: Standin) -> None:
    nvml.script("set 1 mig 1")
    monitor = Monitor("MIG-b0")
    monitor.sample(0)
    nvml.script("set 1 mig 1", "fail nvmlDeviceGetMemoryInfo * 10")
    monitor.sample(1)
    monitor.sample(2)
    nvml.script("set 1 mig 1")
    assert "gpu_0_memory_usage_megabytes" in monitor.sample(3)
    assert monitor.log.said("lost") == []


def test_a_slow_driver_shows_in_what_the_call_costs_its_caller(nvml: Standin) -> None:
    guard = Guarded(Monitor().sources[0], KeptLog())
    guard.sample(0)
    nvml.script("slow nvmlDeviceGetUtilizationRates 1 60")
    before = guard.cost.wall
    assert "gpu_1_utilization_percentage" in (guard.sample(1) or {})
    assert guard.cost.wall - before >= 0.06
    assert guard.cost.longest >= 0.06
