"""The list of GPUs outlives what happens to the driver, and each trouble is reported once."""

from __future__ import annotations

from collections import Counter

import pynvml
import pytest

from helpers.gpu_monitor import NEVER, Monitor, of
from nvml.standin import Standin

ALL_GONE = {1, 9, 12, 18}


def test_where_nothing_is_visible_nvml_is_not_even_loaded(nvml: Standin) -> None:
    nvml.trace()
    monitor = Monitor("")
    assert monitor.sample(0) == {}
    assert "CUDA_VISIBLE_DEVICES" in monitor.gone
    assert nvml.calls() == []


def test_a_number_beyond_the_last_gpu_leaves_no_gpu_and_nvml_closed(nvml: Standin) -> None:
    nvml.trace()
    monitor = Monitor("7")
    monitor.sample(0)
    assert monitor.gone == "no GPU is visible"
    assert [function for _, function, _ in nvml.calls()][-1] == "nvmlShutdown"


# ------------------------------------------------------------------------------------------------ what does not work


@pytest.mark.parametrize("code", sorted(NEVER))
def test_what_is_not_supported_is_asked_once_and_said_once_for_all_gpus(nvml: Standin, code: int) -> None:
    nvml.script(f"fail nvmlDeviceGetFanSpeed * {code}", f"fail nvmlDeviceGetTemperature 0 {code}")
    nvml.trace()
    monitor = Monitor()
    values = monitor.rounds(0, 10)
    asked = Counter((function, device) for _, function, device in nvml.calls())
    assert asked["nvmlDeviceGetFanSpeed", 0] == asked["nvmlDeviceGetFanSpeed", 1] == 1
    assert (asked["nvmlDeviceGetTemperature", 0], asked["nvmlDeviceGetTemperature", 1]) == (1, 10)
    assert "gpu_1_temperature_celsius" in values
    assert not [name for name in values if "fan" in name or name == "gpu_0_temperature_celsius"]
    queries = [fields["query"] for fields in monitor.log.said("does not support")]
    assert queries == ["nvmlDeviceGetTemperature", "nvmlDeviceGetFanSpeed"]


def test_a_failure_that_may_pass_is_said_once_and_asked_again(nvml: Standin) -> None:
    nvml.script("fail nvmlDeviceGetUtilizationRates 0 999")
    monitor = Monitor()
    for now in range(20):
        values = monitor.sample(now)
        assert "gpu_0_utilization_percentage" not in values
        assert values["gpu_0_memory_usage_megabytes"] == 2000
    assert monitor.log.lines == [
        (
            "info",
            "system monitor: a GPU does not answer a query",
            {"gpu": 0, "query": "nvmlDeviceGetUtilizationRates", "reason": "Unknown"},
        )
    ]
    nvml.script()
    assert monitor.sample(20)["gpu_0_utilization_percentage"] == 40


# ---------------------------------------------------------------------------------------------------- lost and found


@pytest.mark.parametrize("how", ["lost 0", "fail * 0 15", "fail * 0 16", "fail * 0 999", "hide 0"])
def test_a_lost_gpu_leaves_a_gap_and_is_picked_up_again(nvml: Standin, how: str) -> None:
    monitor = Monitor()
    usual = monitor.rounds(0)
    nvml.script(how)
    # One that NVML no longer lists goes on answering here until NVML is opened anew.
    if how == "hide 0":
        monitor.close()
    for now in range(10, 60):
        values = monitor.rounds(now)
        assert of(1, values) == of(1, usual)
    assert of(0, values) == {}
    lost = monitor.log.said("lost")
    assert [fields["gpu"] for fields in lost] == [0]
    assert lost[0]["uuid"] == "GPU-a0000000-1111-2222-3333-444444444444"
    nvml.script()
    back = [now for now in range(60, 120) if of(0, monitor.sample(now))]
    assert back, "it is back, but not found"
    assert [fields["gpu"] for fields in monitor.log.said("is back")] == [0]
    assert monitor.rounds(1000) == usual
    assert len(monitor.log.said("lost")) == 1


def test_a_lost_gpu_is_looked_for_less_and_less_often(nvml: Standin) -> None:
    monitor = Monitor()
    nvml.script("lost 1")
    nvml.trace()
    for now in range(3600):
        monitor.sources[0].sample(now)
    opened = sum(function == "nvmlInitWithFlags" for _, function, _ in nvml.calls())
    assert 12 <= opened <= 20


def test_when_every_gpu_is_lost_the_source_is_gone_and_each_later_sample_looks_again(nvml: Standin) -> None:
    monitor = Monitor()
    usual = monitor.rounds(0)
    nvml.script("lost 0", "lost 1")
    assert monitor.sample(10) == {}
    monitor.sample(11)
    assert monitor.gone == "every GPU is lost"
    nvml.script()
    assert monitor.rounds(12) == usual
    assert (len(monitor.log.said("lost")), len(monitor.log.said("back"))) == (2, 2)


def test_a_gpu_that_is_lost_from_the_start_keeps_its_index(nvml: Standin) -> None:
    nvml.script("lost 0")
    monitor = Monitor("0,1")
    values = monitor.rounds(0)
    assert of(0, values) == {}
    assert values["gpu_1_utilization_percentage"] == 41
    assert "gpu_0_uuid" not in monitor.tags()
    nvml.script()
    monitor.rounds(20)
    assert monitor.rounds(60)["gpu_0_utilization_percentage"] == 40
    assert monitor.tags()["gpu_0_name"] == "Stand-in 0"


@pytest.mark.parametrize("code", sorted(ALL_GONE))
def test_a_driver_that_goes_and_comes_back(nvml: Standin, code: int) -> None:
    monitor = Monitor()
    usual = monitor.rounds(0)
    nvml.script(f"fail * * {code}")
    for now in (10, 20):
        assert monitor.sample(now) == {}
        assert type(pynvml.NVMLError(code)).__name__.removeprefix("NVMLError_") in monitor.gone
    nvml.script()
    assert monitor.rounds(30) == usual
    assert monitor.log.lines == [], "the guard says it"


def test_a_driver_that_goes_between_two_sources_costs_the_values_not_yet_read(nvml: Standin) -> None:
    monitor = Monitor()
    values = monitor.sources[0].sample(0)
    nvml.script("fail nvmlDeviceGetTemperature 1 9", "fail nvmlDeviceGetCount_v2 * 9")
    for source in monitor.sources[1:]:
        values.update(source.sample(0))
    assert "gpu_0_temperature_celsius" in values
    assert "gpu_1_temperature_celsius" not in values
    monitor.sample(1)
    assert monitor.gone == "nvmlDeviceGetCount: DriverNotLoaded"
    nvml.script()
    assert "gpu_0_utilization_percentage" in monitor.sample(2)


# --------------------------------------------------------------------------------------------------------------- MIG


def test_a_mig_instance_is_found_again_after_its_gpu_was_lost(nvml: Standin) -> None:
    nvml.script("set 1 mig 1")
    monitor = Monitor("GPU-a")
    monitor = Monitor("MIG-b2")
    monitor.sample(0)
    nvml.script("set 1 mig 1", "lost 1")
    monitor.sample(1)
    monitor.sample(2)
    assert monitor.gone == "every GPU is lost"
    nvml.script("set 1 mig 1")
    assert monitor.sample(3)["gpu_0_memory_usage_megabytes"] == 4000
