"""The GPU's sources, by what their calls cost: five that share one list of devices.

| source | every | what it queries, and what that costs the driver |
|---|---|---|
| `gpu` | each tick | utilisation, memory: microseconds |
| `gpu_state` | 5 s | power, temperature, clocks, throttling, fan, energy: 2.5 to 4 ms on an H200 |
| `gpu_counters` | 15 s | NVLink traffic, ECC errors |
| `gpu_pcie` | 5 s, one direction of one GPU at a time | PCIe traffic: a call waits 20 ms while the driver measures |
| `gpu_processes` | 10 s, one GPU at a time | memory of the training processes: some 5 ms |

Only `gpu` opens NVML, and it alone is gone when that cannot be done; the others have no values then. MLflow's names
keep MLflow's meaning and units: memory in use includes what the driver reserves, and megabytes are 10**6 bytes. Of a
MIG instance NVML reports the memory, and which processes use it; the rest belongs to the whole GPU, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from tailrace_agent.log import Log
from tailrace_agent.sampler.gpu.devices import Gpus
from tailrace_agent.sampler.gpu.rare import GpuCounters, GpuPcie, GpuProcesses
from tailrace_agent.sampler.gpu.state import GpuState
from tailrace_agent.sampler.gpu.use import GpuUse
from tailrace_agent.sampler.source import Source

__all__ = ["gpu_sources"]


def gpu_sources(
    visible_devices: str | None, log: Log, processes: Callable[[], Collection[int]] | None = None
) -> list[Source]:
    """The sources of one monitor, in the order in which they are to be sampled.

    Args:
        visible_devices: `CUDA_VISIBLE_DEVICES` of the training process; None when it is not set.
        log: Where operators read.
        processes: The pids of the training process and its children, as of now. Called rarely; without it their memory
            is not measured.
    """
    gpus = Gpus(visible_devices, log)
    sources: list[Source] = [GpuUse(gpus), GpuState(gpus), GpuCounters(gpus), GpuPcie(gpus)]
    return sources if processes is None else [*sources, GpuProcesses(gpus, processes)]
