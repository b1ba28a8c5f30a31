"""The sources `gpu_counters`, `gpu_pcie` and `gpu_processes`: what is read rarely, since it costs the driver more."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from tailrace_agent.sampler.gpu.devices import Gpus
from tailrace_agent.sampler.gpu.use import MEGABYTE, GpuSource
from tailrace_agent.sampler.rates import Rates

__all__ = ["GpuCounters", "GpuPcie", "GpuProcesses"]

# Numbers of NVML's ABI.
_NVLINK: Final = {"nvlink_transmit_megabytes_per_second": 138, "nvlink_receive_megabytes_per_second": 139}
_ALL_LINKS: Final = 0xFFFFFFFF
_KIBIBYTE: Final = 1024
_ECC: Final = {"ecc_corrected_errors": 0, "ecc_uncorrected_errors": 1}
_SINCE_DRIVER_LOAD: Final = 0
_PCIE: Final = {"pcie_transmit_megabytes_per_second": 0, "pcie_receive_megabytes_per_second": 1}


class GpuCounters(GpuSource):
    """NVLink traffic, averaged over the time between two samples, and ECC errors since the driver was loaded."""

    name = "gpu_counters"
    every = 15.0

    def __init__(self, gpus: Gpus) -> None:
        super().__init__(gpus)
        self._rates: dict[object, Rates] = {}

    def _read(self, now: float, values: dict[str, float]) -> None:
        fields = tuple((field, _ALL_LINKS) for field in _NVLINK.values())
        for device in self._whole():
            counters = zip(_NVLINK, self._gpus.query_counters(device, fields), strict=True)
            known = {
                device.prefix + name: count * _KIBIBYTE / MEGABYTE for name, count in counters if count is not None
            }
            values.update(self._rates.setdefault(device.key, Rates()).update(now, known))
            for name, kind in _ECC.items():
                errors = self._gpus.query(device, "nvmlDeviceGetTotalEccErrors", kind, _SINCE_DRIVER_LOAD)
                if errors is not None:
                    values[device.prefix + name] = float(errors)


class GpuPcie(GpuSource):
    """PCIe traffic, over 20 ms: that long each call blocks."""

    name = "gpu_pcie"
    every = 5.0

    def __init__(self, gpus: Gpus) -> None:
        super().__init__(gpus)
        self._turn = 0

    def _read(self, now: float, values: dict[str, float]) -> None:  # noqa: ARG002 - one of several
        # One call a sample, in turn: all of eight GPUs would block the other sources for 320 ms.
        turns = [(device, name) for device in self._whole() for name in _PCIE]
        if not turns:
            return
        device, name = turns[self._turn % len(turns)]
        self._turn += 1
        kilobytes = self._gpus.query(device, "nvmlDeviceGetPcieThroughput", _PCIE[name])
        if kilobytes is not None:
            values[device.prefix + name] = kilobytes / 1000


class GpuProcesses(GpuSource):
    """GPU memory of the training process and its children.

    Where none of them is on NVML's list there is no value: they may use no GPU, or be listed under the pids of another
    namespace, as in some containers.

    Args:
        gpus: The list of devices.
        processes: Their pids.
    """

    name = "gpu_processes"
    every = 10.0

    def __init__(self, gpus: Gpus, processes: Callable[[], Collection[int]]) -> None:
        super().__init__(gpus)
        self._processes = processes
        self._turn = 0

    def _read(self, now: float, values: dict[str, float]) -> None:  # noqa: ARG002 - one of several
        devices = self._gpus.alive()
        if not devices:
            return
        device = devices[self._turn % len(devices)]  # one a sample, as in `GpuPcie`
        self._turn += 1
        running = self._gpus.query(
            device, "nvmlDeviceGetComputeRunningProcesses_v3", or_else="nvmlDeviceGetComputeRunningProcesses_v2"
        )
        if not running:
            return
        ours = set(self._processes())
        # None where the driver does not say, as under Windows' display driver model (WSL).
        used = [each.usedGpuMemory for each in running if each.pid in ours and each.usedGpuMemory is not None]
        if used:
            values[f"{device.prefix}process_memory_usage_megabytes"] = sum(used) / MEGABYTE
