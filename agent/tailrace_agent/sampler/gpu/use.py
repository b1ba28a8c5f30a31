"""The source `gpu`: what is queried at each tick. And what all the GPU's sources have in common."""

from __future__ import annotations

from typing import Final

from tailrace_agent.sampler.gpu.devices import Device, Gpus
from tailrace_agent.sampler.gpu.nvml import LibraryGone
from tailrace_agent.sampler.source import SourceGone

__all__ = ["MEGABYTE", "GpuSource", "GpuUse"]

MEGABYTE: Final = 1e6
"""Bytes; MLflow's."""
_LOST_AFTER: Final = 3
"""Samples in a row in which nothing was answered: a GPU may be lost in other words than `GpuIsLost`."""


class GpuSource:
    """What the GPU's sources have in common: they gather values in `_read`, and NVML may go away in the middle of it.

    Args:
        gpus: The list of devices that they share.

    Attributes:
        name: For the log.
        every: Seconds between two samples; 0 means each tick.
    """

    name = ""
    every = 0.0

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus

    def sample(self, now: float) -> dict[str, float]:
        """What is measured at `now`; nothing while NVML is not open, which the source `gpu` sees to."""
        values: dict[str, float] = {}
        try:
            self._read(now, values)
        except LibraryGone:
            self._gpus.close()  # which the source `gpu` finds, and reports
        return values

    def tags(self) -> dict[str, str]:
        """None, but for `gpu`."""
        return {}

    def totals(self) -> dict[str, float]:
        """None, but for `gpu_state`."""
        return {}

    def close(self) -> None:
        """Shuts NVML down, for all of them."""
        self._gpus.close()

    def _read(self, now: float, values: dict[str, float]) -> None:
        """Puts into `values` what can be read at `now`; what was read before NVML went away counts."""
        raise NotImplementedError

    def _whole(self) -> list[Device]:
        """The GPUs that can be queried, without MIG instances."""
        return [device for device in self._gpus.alive() if not device.is_mig]


class GpuUse(GpuSource):
    """Utilisation and memory."""

    name = "gpu"

    def sample(self, now: float) -> dict[str, float]:
        """As every source's; opens NVML, and looks for lost GPUs.

        Raises:
            SourceGone: There is no GPU to query.
        """
        values: dict[str, float] = {}
        try:
            for device in self._gpus.ready(now):
                device.failed = False
                found = {**self._utilisation(device), **self._memory(device)}
                # One answer is enough: a GPU of which one query alone fails is not lost.
                device.failures = device.failures + 1 if device.failed and not found else 0
                if device.failures >= _LOST_AFTER:
                    self._gpus.lose(device, "it answers nothing")
                values.update(found)
        except LibraryGone as error:
            self._gpus.close()
            raise SourceGone(str(error)) from None
        return values

    def tags(self) -> dict[str, str]:
        """Name and UUID of each device, and the driver's version."""
        tags = {"gpu_driver_version": self._gpus.text("nvmlSystemGetDriverVersion")}
        for device in self._gpus.alive():
            tags[f"{device.prefix}name"] = self._gpus.text("nvmlDeviceGetName", device)
            tags[f"{device.prefix}uuid"] = device.uuid
        return {name: text for name, text in tags.items() if text}

    def _utilisation(self, device: Device) -> dict[str, float]:
        rates = None if device.is_mig else self._gpus.query(device, "nvmlDeviceGetUtilizationRates")
        if rates is None:
            return {}
        return {
            f"{device.prefix}utilization_percentage": float(rates.gpu),
            f"{device.prefix}memory_busy_percentage": float(rates.memory),
        }

    def _memory(self, device: Device) -> dict[str, float]:
        memory = self._gpus.query(device, "nvmlDeviceGetMemoryInfo")
        if memory is None or not memory.total:
            return {}
        return {
            f"{device.prefix}memory_usage_megabytes": memory.used / MEGABYTE,
            f"{device.prefix}memory_usage_percentage": memory.used / memory.total * 100,
        }
