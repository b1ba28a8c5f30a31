"""The GPU's sources, through the real pynvml, against a stand-in `libnvidia-ml.so.1`: fault 17 of the fault model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from helpers.kept_log import KeptLog
from nvml.standin import FUNCTIONS, Standin, build, loaded
from tailrace_agent.sampler.gpu.energy import EnergyMeter
from tailrace_agent.sampler.gpu.sources import gpu_sources
from tailrace_agent.sampler.guard import Guarded
from tailrace_agent.sampler.source import Source, SourceGone

CODES = sorted({value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")} | {31, 77})
NEVER = {3, 4, 13, 25, 26}
ALL_GONE = {1, 9, 12, 18}
OPENING = {"nvmlInitWithFlags", "nvmlDeviceGetCount_v2"}
LISTING = {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMigMode"}
LOST = {15, 16, 28}
FALL_BACK = {"nvmlDeviceGetCurrentClocksEventReasons"}
if hasattr(pynvml, "nvmlDeviceGetComputeRunningProcesses_v2"):  # the oldest nvidia-ml-py that will do lacks it
    FALL_BACK.add("nvmlDeviceGetComputeRunningProcesses_v3")
WHAT_IT_COSTS = {
    "nvmlDeviceGetUtilizationRates": ["utilization", "memory_busy"],
    "nvmlDeviceGetMemoryInfo": ["memory_usage"],
    "nvmlDeviceGetPowerUsage": ["power"],
    "nvmlDeviceGetEnforcedPowerLimit": ["power_usage_percentage"],
    "nvmlDeviceGetTemperature": ["temperature"],
    "nvmlDeviceGetClockInfo": ["sm_clock", "memory_clock"],
    "nvmlDeviceGetCurrentClocksEventReasons": ["throttled"],
    "nvmlDeviceGetFanSpeed": ["fan"],
    "nvmlDeviceGetFieldValues": ["nvlink"],
    "nvmlDeviceGetTotalEccErrors": ["ecc"],
    "nvmlDeviceGetPcieThroughput": ["pcie"],
    "nvmlDeviceGetComputeRunningProcesses_v3": ["process"],
}
MIG_ONLY = {
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeInstanceId",
}


class Monitor:
    """The sources of one monitor and what they said; asks them all, as a sampler would that never waits."""

    def __init__(self, visible: str | None = None, processes: Any = lambda: {os.getpid()}) -> None:
        self.log = KeptLog()
        self.sources: list[Source] = gpu_sources(visible, self.log, processes)
        self.gone = ""

    def sample(self, now: float) -> dict[str, float]:
        values: dict[str, float] = {}
        self.gone = ""
        for source in self.sources:
            try:
                values.update(source.sample(now))
            except SourceGone as error:
                assert source.name == "gpu", "one reason, one line"
                self.gone = str(error)
        return values

    def rounds(self, start: float, count: int = 4) -> dict[str, float]:
        """Enough for every turn of the sources that ask one GPU at a time."""
        values: dict[str, float] = {}
        for turn in range(count):
            values.update(self.sample(start + turn))
        return values

    def tags(self) -> dict[str, str]:
        return {name: text for source in self.sources for name, text in source.tags().items()}

    def totals(self) -> dict[str, float]:
        return {name: value for source in self.sources for name, value in source.totals().items()}

    def close(self) -> None:
        for source in self.sources:
            source.close()


def of(gpu: int, values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith(f"gpu_{gpu}_")}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    standin = Standin(tmp_path)
    monkeypatch.setenv("NVML_STANDIN", standin.environ["NVML_STANDIN"])
    monkeypatch.delenv("NVML_STANDIN_TRACE", raising=False)
    with loaded(library):
        yield standin


GPU_0 = {
    "gpu_0_utilization_percentage": 40.0,
    "gpu_0_memory_busy_percentage": 20.0,
    "gpu_0_memory_usage_megabytes": 2000.0,
    "gpu_0_memory_usage_percentage": 2.5,
    "gpu_0_power_usage_watts": 200.0,
    "gpu_0_power_usage_percentage": 50.0,
    "gpu_0_temperature_celsius": 60.0,
    "gpu_0_sm_clock_megahertz": 1501.0,
    "gpu_0_memory_clock_megahertz": 1502.0,
    "gpu_0_fan_speed_percentage": 30.0,
    "gpu_0_throttled_power": 1.0,
    "gpu_0_throttled_thermal": 0.0,
    "gpu_0_throttled_hardware": 0.0,
    "gpu_0_nvlink_transmit_megabytes_per_second": 0.0,
    "gpu_0_nvlink_receive_megabytes_per_second": 0.0,
    "gpu_0_ecc_corrected_errors": 7.0,
    "gpu_0_ecc_uncorrected_errors": 0.0,
    "gpu_0_pcie_transmit_megabytes_per_second": 5.0,
    "gpu_0_pcie_receive_megabytes_per_second": 5.001,
    "gpu_0_process_memory_usage_megabytes": 500.0,
}


def test_what_is_measured_of_a_gpu_in_mlflows_names_and_units(nvml: Standin) -> None:
    monitor = Monitor()
    values = monitor.rounds(100)
    assert of(0, values) == pytest.approx(GPU_0)
    assert {name.replace("gpu_1_", "gpu_0_") for name in of(1, values)} == set(GPU_0)
    assert values.keys() == of(0, values).keys() | of(1, values).keys()
    assert all(type(value) is float for value in values.values())
    assert monitor.log.lines == []


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


@pytest.mark.parametrize("value", ["1", "GPU-b", "GPU-b0000000-1111-2222-3333-444444444444"])
def test_only_visible_gpus_are_measured_and_under_their_visible_index(nvml: Standin, value: str) -> None:
    nvml.script("set 1 utilization 91")
    values = Monitor(value).rounds(100)
    assert values["gpu_0_utilization_percentage"] == 91
    assert of(1, values) == {}


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


def test_counters_become_rates(nvml: Standin) -> None:
    monitor = Monitor("0")
    assert "gpu_0_nvlink_transmit_megabytes_per_second" not in monitor.sample(100)
    nvml.script("set 0 nvlink_transmit 2001000")
    assert monitor.sample(102)["gpu_0_nvlink_transmit_megabytes_per_second"] == pytest.approx(1024)
    nvml.script("set 0 nvlink_transmit 5")
    assert "gpu_0_nvlink_transmit_megabytes_per_second" not in monitor.sample(104)


@pytest.mark.parametrize(
    ("mask", "throttled"),
    [(0x1, []), (0x80, ["power"]), (0x20, ["thermal"]), (0x48, ["hardware", "thermal"]), (0x8, ["hardware"])],
)
def test_throttling(nvml: Standin, mask: int, throttled: list[str]) -> None:
    nvml.script(f"set 0 reasons {mask}")
    values = Monitor("0").sample(0)
    assert sorted(name[16:] for name, value in values.items() if "throttled" in name and value) == throttled


# ------------------------------------------------------------------------------------------------ what does not work


@pytest.mark.parametrize("function", FUNCTIONS)
def test_whatever_one_function_answers_sampling_goes_on_with_the_rest(nvml: Standin, function: str) -> None:
    mig = function in MIG_ONLY
    always = ["set 1 mig 1"] if mig else []
    nvml.script(*always)
    turns = 6 if mig else 4
    usual = Monitor().rounds(0, turns)
    for code in CODES:
        nvml.script(*always, f"fail {function} {'*' if function in OPENING or mig else 0} {code}")
        monitor = Monitor()
        values = monitor.rounds(0, turns)
        monitor.tags()
        monitor.totals()
        case = f"{function} answers {code}: {monitor.gone} {monitor.log.lines}"
        costly = tuple(f"gpu_0_{each}" for each in WHAT_IT_COSTS.get(function, []))
        costs = {name for name in usual if name.startswith(costly)}
        if function in OPENING:
            assert values == {}, case
            assert monitor.gone, case
        elif function == "nvmlDeviceGetHandleByIndex_v2" and code in NEVER:
            assert {name.replace("gpu_0_", "gpu_1_"): value for name, value in values.items()} == of(1, usual), case
        elif function == "nvmlDeviceGetHandleByIndex_v2" or (function in LISTING and code in LOST):
            assert values == of(1, usual), case
        elif mig:
            assert values.items() == of(0, usual).items(), case
        elif function in FALL_BACK and code in NEVER:
            assert values == usual, case
        else:
            assert usual.keys() - values.keys() == costs, case
            assert values.items() <= usual.items(), case
        assert max(Counter(map(repr, monitor.log.lines)).values(), default=0) <= 1, case

        nvml.script(*always)
        if function in OPENING or (not mig and function not in LISTING and code not in NEVER):
            assert monitor.rounds(100, turns) == usual, case
        monitor.close()
        assert monitor.rounds(1000, turns) == usual, f"NVML opened anew after {case}"
        monitor.close()


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


def test_an_unsupported_argument_says_nothing_about_others(nvml: Standin) -> None:
    nvml.script("set 0 nvlink_problem 3")
    nvml.trace()
    values = Monitor("0").rounds(0, 5)
    asked = Counter(function for _, function, _ in nvml.calls())
    assert asked["nvmlDeviceGetFieldValues"] == 1
    assert of(0, values).keys() == {name for name in GPU_0 if "nvlink" not in name}


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


def test_an_old_driver_is_asked_by_its_own_names(tmp_path: Path) -> None:
    with loaded(build(tmp_path, "-DOLD_DRIVER")):
        monitor = Monitor("0")
        expected = {name: value for name, value in GPU_0.items() if "process" not in name or len(FALL_BACK) == 2}
        assert monitor.rounds(0) == pytest.approx(expected)
        assert len(monitor.log.lines) == len(GPU_0) - len(expected)


def test_a_power_limit_that_is_not_told_costs_the_percentage_alone(nvml: Standin) -> None:
    for problem in ("fail nvmlDeviceGetEnforcedPowerLimit 0 3", "set 0 limit 0"):
        nvml.script(problem)
        values = Monitor("0").sample(0)
        assert "gpu_0_power_usage_watts" in values
        assert "gpu_0_power_usage_percentage" not in values


def test_memory_that_is_not_told_is_absent(nvml: Standin) -> None:
    nvml.script("set 0 total 0", "set 0 used 0")
    assert not [name for name in Monitor("0").sample(0) if "memory_usage" in name and "process" not in name]


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


def test_a_gpu_that_this_user_may_not_touch_has_no_number(nvml: Standin) -> None:
    nvml.script("fail nvmlDeviceGetHandleByIndex_v2 0 4")
    monitor = Monitor("0")
    monitor.sample(0)
    assert monitor.tags()["gpu_0_name"] == "Stand-in 1"


# --------------------------------------------------------------------------------------------------------------- MIG


def test_mig_instances_are_devices_of_their_own(nvml: Standin) -> None:
    nvml.script("set 1 mig 1")
    nvml.trace()
    monitor = Monitor()
    values = monitor.rounds(0, 6)
    assert of(0, values) == pytest.approx(GPU_0)
    assert of(1, values) == pytest.approx(
        {
            "gpu_1_memory_usage_megabytes": 2000.0,
            "gpu_1_memory_usage_percentage": 20.0,
            "gpu_1_process_memory_usage_megabytes": 500.0,
        }
    )
    assert of(2, values)["gpu_2_memory_usage_megabytes"] == 4000
    assert of(3, values) == {}, "two compute instances share a GPU instance: CUDA shows one of them"
    assert monitor.tags()["gpu_1_name"] == "Stand-in MIG 1g.10gb 200"
    assert monitor.tags()["gpu_2_uuid"].startswith("MIG-b2")
    assert monitor.log.lines == []
    assert "nvmlDeviceGetUtilizationRates" not in {function for _, function, device in nvml.calls() if device > 100}
    assert "gpu_1_energy_joules" not in monitor.totals()


@pytest.mark.parametrize(
    ("value", "slot"),
    [("MIG-b3", 3), ("MIG-GPU-b0000000-1111-2222-3333-444444444444/1/0", 0), ("1", 0)],
)
def test_a_mig_instance_by_its_uuid(nvml: Standin, value: str, slot: int) -> None:
    nvml.script("set 1 mig 1")
    monitor = Monitor(value)
    values = monitor.sample(0)
    assert values["gpu_0_memory_usage_megabytes"] == 2000 + 1000 * slot
    assert monitor.tags()["gpu_0_uuid"].startswith(f"MIG-b{slot}")


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


# ------------------------------------------------------------------------------------------------------------ energy


def test_energy_is_what_the_drivers_counter_grew_by_up_to_the_moment_it_is_asked_for(nvml: Standin) -> None:
    monitor = Monitor("0")
    monitor.sample(0)
    assert monitor.totals() == {"gpu_0_energy_joules": 0.0}
    nvml.script("set 0 energy 6500000")
    assert monitor.totals() == {"gpu_0_energy_joules": 1500.0}
    monitor.sample(5)
    nvml.script("set 0 energy 7000000")
    assert monitor.totals() == monitor.totals() == {"gpu_0_energy_joules": 2000.0}
    monitor.close()
    assert monitor.totals() == {"gpu_0_energy_joules": 1500.0}, "what was read until then"


def test_without_a_counter_energy_is_integrated_power(nvml: Standin) -> None:
    absent = "fail nvmlDeviceGetTotalEnergyConsumption * 3"
    nvml.script(absent)
    monitor = Monitor("0")
    monitor.sample(10)
    assert monitor.totals() == {}, "not measured is not zero"
    nvml.script(absent, "set 0 power 400000")
    monitor.sample(15)
    monitor.sample(20)
    assert monitor.totals() == {"gpu_0_energy_joules": pytest.approx(300 * 5 + 400 * 5)}


def test_without_counter_and_power_there_is_no_energy(nvml: Standin) -> None:
    nvml.script("fail nvmlDeviceGetTotalEnergyConsumption * 3", "fail nvmlDeviceGetPowerUsage * 3")
    monitor = Monitor()
    monitor.rounds(0, 6)
    assert monitor.totals() == {}


def test_a_counter_that_begins_anew_counts_from_there_and_the_power_fills_the_gap(nvml: Standin) -> None:
    monitor = Monitor("0")
    nvml.script("set 0 energy 4294967000")
    monitor.sample(0)
    nvml.script("set 0 energy 200000")
    monitor.sample(5)
    assert monitor.totals() == {"gpu_0_energy_joules": pytest.approx(200 * 5)}
    nvml.script("set 0 energy 500000")
    monitor.sample(10)
    assert monitor.totals() == {"gpu_0_energy_joules": pytest.approx(200 * 5 + 300)}


def test_a_gpu_that_was_lost_has_used_what_its_counter_says_and_no_power_is_made_up(nvml: Standin) -> None:
    monitor = Monitor("0,1")
    nvml.script("fail nvmlDeviceGetTotalEnergyConsumption 1 3")
    monitor.sample(0)
    monitor.sample(5)
    nvml.script("lost 0", "lost 1")
    monitor.sample(10)
    monitor.sample(15)
    assert monitor.totals() == {"gpu_0_energy_joules": 0.0, "gpu_1_energy_joules": 1000.0}
    nvml.script("fail nvmlDeviceGetTotalEnergyConsumption 1 3", "set 0 energy 9000000")
    monitor.sample(1000)
    monitor.sample(1005)
    assert monitor.totals() == {"gpu_0_energy_joules": 4000.0, "gpu_1_energy_joules": pytest.approx(2000)}


def test_a_meter_without_two_readings_has_no_sum() -> None:
    meter = EnergyMeter()
    assert meter.joules is meter.total(None) is meter.total(5) is None
    meter.read(0, None, None)
    meter.read(5, 5000, 3.0)
    assert meter.joules is None
    meter.read(6, None, 5.0)
    assert meter.joules == 4


# --------------------------------------------------------------------------------------------------------------- cost


def test_calls_are_tiered_by_their_cost(nvml: Standin) -> None:
    monitor = Monitor()
    assert {source.name: source.every for source in monitor.sources} == {
        "gpu": 0,
        "gpu_state": 5,
        "gpu_counters": 15,
        "gpu_pcie": 5,
        "gpu_processes": 10,
    }
    monitor.sample(0)
    nvml.trace()
    monitor.sources[0].sample(1)
    assert Counter(function for _, function, _ in nvml.calls()) == {
        "nvmlDeviceGetUtilizationRates": 2,
        "nvmlDeviceGetMemoryInfo": 2,
    }
    monitor.sources[3].sample(1)
    assert len(nvml.calls()) == 1, "the driver takes 20 ms for each"


def test_a_slow_driver_shows_in_what_the_call_costs_its_caller(nvml: Standin) -> None:
    guard = Guarded(Monitor().sources[0], KeptLog())
    guard.sample(0)
    nvml.script("slow nvmlDeviceGetUtilizationRates 1 60")
    before = guard.cost.wall
    assert "gpu_1_utilization_percentage" in (guard.sample(1) or {})
    assert guard.cost.wall - before >= 0.06
    assert guard.cost.longest >= 0.06


def test_where_there_is_no_nvml_one_line_says_so_whatever_the_number_of_sources(nvml: Standin) -> None:
    nvml.script("fail nvmlInitWithFlags * 9")
    log = KeptLog()
    guards = [Guarded(source, log) for source in gpu_sources(None, log, set)]
    for tick in range(100):
        for guard in guards:
            if guard.due(tick):
                assert not guard.sample(tick)
                assert guard.tags() == {}
    assert len(log.lines) == 1


def test_the_sources_for_processes_need_to_know_them(nvml: Standin) -> None:
    assert len(gpu_sources(None, KeptLog())) == 4
    nvml.script("set 0 pid 4242")
    assert "gpu_0_process_memory_usage_megabytes" not in Monitor("0").sample(0), "not ours"
    assert Monitor("0", lambda: [1, 4242]).sample(0)["gpu_0_process_memory_usage_megabytes"] == 800
    nvml.script(f"set 0 pid_memory {2**64 - 1}")
    assert "gpu_0_process_memory_usage_megabytes" not in Monitor("0").sample(0), "not told"
    nvml.script("set 0 processes 0")
    assert "gpu_0_process_memory_usage_megabytes" not in Monitor("0").sample(0), "none"


def test_close_shuts_nvml_down_once_and_a_later_sample_opens_it_again(nvml: Standin) -> None:
    monitor = Monitor()
    monitor.sample(0)
    nvml.trace()
    monitor.close()
    monitor.close()
    assert [function for _, function, _ in nvml.calls()] == ["nvmlShutdown"]
    assert "gpu_0_utilization_percentage" in monitor.sample(1)


# ------------------------------------------------------------------- processes of their own, and the library's search

PROGRAM = """
import json, os, sys
from tailrace_agent.sampler.gpu.sources import gpu_sources
from tailrace_agent.sampler.guard import Guarded
from tailrace_agent.sampler.source import SourceGone

class Log:
    def info(self, event, **fields): print(json.dumps([event, fields]), file=sys.stderr)
    warning = info

sources = gpu_sources(os.environ.get("CUDA_VISIBLE_DEVICES"), Log())

def sample(now):
    try:
        return sources[0].sample(now)
    except SourceGone as gone:
        return str(gone)

def say(value):
    print(json.dumps(value), flush=True)
"""


def run(body: str, path: Path, environ: dict[str, str]) -> list[Any]:
    environment = {**os.environ, **environ, "LD_LIBRARY_PATH": str(path)}
    command = [sys.executable, "-c", PROGRAM + body]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_library_is_found_by_the_dynamic_linker_and_pynvml_is_imported_no_earlier(
    library: Path, tmp_path: Path
) -> None:
    body = "say('pynvml' in sys.modules); say(sample(0)); say('pynvml' in sys.modules)"
    before, values, after = run(body, library.parent, {**Standin(tmp_path).environ, "CUDA_VISIBLE_DEVICES": "1"})
    assert (before, after) == (False, True)
    assert values["gpu_0_utilization_percentage"] == 41


def test_a_library_that_is_missing_is_found_when_it_appears(library: Path, tmp_path: Path) -> None:
    # A file that is no library ends the dynamic linker's search, so that a machine with a driver has none either.
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    body = f"""
say(sample(0)); say(sample(1))
os.remove({str(tmp_path / "libnvidia-ml.so.1")!r})
os.symlink({str(library)!r}, {str(tmp_path / "libnvidia-ml.so.1")!r})
say(sample(2))
"""
    first, second, third = run(body, tmp_path, Standin(tmp_path).environ)
    assert first == second == "nvmlInit: LibraryNotFound"
    assert third["gpu_0_utilization_percentage"] == 40


def test_a_version_mismatch_at_the_start(library: Path, tmp_path: Path) -> None:
    standin = Standin(tmp_path)
    standin.script("fail nvmlInitWithFlags * 18")
    assert run("say(sample(0))", library.parent, standin.environ) == ["nvmlInit: LibRmVersionMismatch"]


def test_a_forked_child_opens_nvml_for_itself_and_leaves_the_parents_open(library: Path, tmp_path: Path) -> None:
    body = """
sample(0)
child = os.fork()
if not child:
    say([source.sample(1) for source in sources[1:]])
    say(sample(2))
    for source in sources: source.close()
    os._exit(0)
os.waitpid(child, 0)
say(sample(3))
say([os.getpid(), child])
"""
    standin = Standin(tmp_path)
    standin.trace()
    try:
        others, forked, parents, (parent, child) = run(body, library.parent, standin.environ)
    finally:
        os.environ.pop("NVML_STANDIN_TRACE")
    assert others == [{}, {}, {}]
    assert forked == parents
    assert forked["gpu_1_utilization_percentage"] == 41
    calls = Counter((pid, function) for pid, function, _ in standin.calls())
    assert calls[parent, "nvmlInitWithFlags"] == calls[child, "nvmlInitWithFlags"] == 1
    assert (calls[parent, "nvmlShutdown"], calls[child, "nvmlShutdown"]) == (0, 1)


def test_a_forked_child_that_only_closes_shuts_nothing_down(library: Path, tmp_path: Path) -> None:
    body = """
sample(0)
child = os.fork()
if not child:
    for source in sources: source.close()
    os._exit(0)
os.waitpid(child, 0)
say(sample(1) != {})
"""
    standin = Standin(tmp_path)
    standin.trace()
    try:
        assert run(body, library.parent, standin.environ) == [True]
    finally:
        os.environ.pop("NVML_STANDIN_TRACE")
    assert "nvmlShutdown" not in {function for _, function, _ in standin.calls()}


def test_without_nvidia_ml_py_the_source_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monitor = Monitor()
    assert monitor.sample(0) == {}
    assert "nvidia-ml-py" in monitor.gone
