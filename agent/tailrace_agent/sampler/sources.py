"""Which sources a monitor has: one list, made from its configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from tailrace_agent.log import Log
from tailrace_agent.sampler.config import MonitorConfig
from tailrace_agent.sampler.cpu import CpuClockSource, CpuSource
from tailrace_agent.sampler.disk import DiskIoSource, DiskUsageSource
from tailrace_agent.sampler.energy import CpuEnergySource
from tailrace_agent.sampler.gpu.sources import gpu_sources
from tailrace_agent.sampler.health import Health, HealthSource
from tailrace_agent.sampler.memory import MemorySource, SwapSource
from tailrace_agent.sampler.network import NetworkSource
from tailrace_agent.sampler.process import ProcessSource
from tailrace_agent.sampler.source import Source
from tailrace_agent.sampler.torch_memory import TorchOfRanks, TorchSource, torch_board

__all__ = ["all_sources", "host_sources", "process_family"]


def all_sources(config: MonitorConfig, log: Log, health: Callable[[], Health], shared: Path) -> list[Source]:
    """Everything that a monitor is configured for, and the agent's own health.

    Args:
        config: What it is configured for.
        log: Where operators read.
        health: Reads it from the pipeline.
        shared: The session's directory in shared memory.
    """
    sources = [*host_sources(config), HealthSource(health)]
    if config.gpu:
        family = partial(process_family, config.family or config.pid or os.getpid())
        sources += gpu_sources(None if config.family else config.visible_devices, log, family)
        if config.family is not None:
            sources.append(TorchOfRanks(shared))
        elif config.pid is not None:
            sources.append(TorchSource(torch_board(shared, config.pid)))
    return sources


def process_family(pid: int) -> set[int]:
    """Pids of a process and its children, as of now; empty when it has ended."""
    try:
        process = psutil.Process(pid)
        # Reads every process of the machine: for sources that ask rarely.
        return {pid, *(child.pid for child in process.children(recursive=True))}
    except psutil.NoSuchProcess:
        return set()


def host_sources(config: MonitorConfig) -> list[Source]:
    """All sources but the GPUs."""
    sources: list[Source] = []
    if config.cpu:
        sources += [CpuSource(config.pid, cores=config.cores), CpuClockSource(), CpuEnergySource()]
    if config.memory:
        sources += [MemorySource(config.pid), SwapSource()]
    if config.disk:
        sources += [DiskUsageSource(config.cwd), DiskIoSource()]
    if config.network:
        sources.append(NetworkSource())
    if config.process:
        sources.append(ProcessSource(config.family or config.pid))
    return sources
