"""Samples of the machine, as the tests of monitors look at them."""

from __future__ import annotations

from helpers.sdk_tools import Store, eventually
from tailrace import SystemMonitor

CPU = "system/cpu_utilization_percentage"
MEMORY = "system/system_memory_usage_megabytes"


def sampled(monitor: SystemMonitor) -> dict[str, float]:
    """The first sample of a monitor."""
    return eventually(monitor.latest)


def steps_of(store: Store, key: str = MEMORY) -> list[int]:
    """The steps at which a metric was stored."""
    return [step for step, _ in store.history(key)]
