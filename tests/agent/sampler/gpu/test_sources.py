"""The GPU's sources, through the real pynvml, against a stand-in `libnvidia-ml.so.1`: fault 17 of the fault model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pynvml
import pytest

from helpers.gpu_monitor import FALL_BACK, GPU_0, NEVER, Monitor, of
from helpers.kept_log import KeptLog
from nvml.standin import FUNCTIONS, Standin, build, loaded
from tailrace_agent.sampler.gpu.sources import gpu_sources
from tailrace_agent.sampler.guard import Guarded

CODES = sorted({value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")} | {31, 77})
OPENING = {"nvmlInitWithFlags", "nvmlDeviceGetCount_v2"}
LISTING = {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMigMode"}
LOST = {15, 16, 28}
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


def test_what_is_measured_of_a_gpu_in_mlflows_names_and_units(nvml: Standin) -> None:
    monitor = Monitor()
    values = monitor.rounds(100)
    assert of(0, values) == pytest.approx(GPU_0)
    assert {name.replace("gpu_1_", "gpu_0_") for name in of(1, values)} == set(GPU_0)
    assert values.keys() == of(0, values).keys() | of(1, values).keys()
    assert all(type(value) is float for value in values.values())
    assert monitor.log.lines == []


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


def test_an_old_driver_is_asked_by_its_own_names(tmp_path: Path) -> None:
    with loaded(build(tmp_path, "-DOLD_DRIVER")):
        monitor = Monitor("0")
        expected = {name: value for name, value in GPU_0.items() if "process" not in name or len(FALL_BACK) == 2}
        assert monitor.rounds(0) == pytest.approx(expected)
        assert len(monitor.log.lines) == len(GPU_0) - len(expected)


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
