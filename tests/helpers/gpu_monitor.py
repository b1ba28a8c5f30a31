"""The sources of one monitor's GPUs, asked as a sampler would that never waits."""

from __future__ import annotations

import os
from typing import Any

import pynvml

from helpers.kept_log import KeptLog
from tailrace_agent.sampler.gpu.sources import gpu_sources
from tailrace_agent.sampler.source import Source, SourceGone

NEVER = {3, 4, 13, 25, 26}
FALL_BACK = {"nvmlDeviceGetCurrentClocksEventReasons"}
if hasattr(pynvml, "nvmlDeviceGetComputeRunningProcesses_v2"):  # the oldest nvidia-ml-py that will do lacks it
    FALL_BACK.add("nvmlDeviceGetComputeRunningProcesses_v3")


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
