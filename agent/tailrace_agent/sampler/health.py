"""The agent's own health: how far behind it is, and what it costs.

MLflow's UI sorts its charts by name, and puts a further `/` into a section of its own before all others. So these names
have none, and begin with a word that comes after all the others: the program's metrics are seen first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from tailrace_agent.sampler.rates import Rates

__all__ = ["Health", "HealthSource"]

_MEGABYTE = 1e6


class Health(NamedTuple):
    """What the pipeline reports of itself: seconds behind, entries waiting, bytes in the spool."""

    lag: float
    pending: int
    spool_bytes: int


class HealthSource:
    """Samples the process that samples, and its pipeline.

    Args:
        health: Reads it from the pipeline's memory.
    """

    name = "tailrace"
    every = 0.0

    def __init__(self, health: Callable[[], Health]) -> None:
        import psutil  # not before something is sampled: the pipeline knows this module

        self._health = health
        self._memory = psutil.Process().memory_info
        self._rates = Rates()

    def sample(self, now: float) -> dict[str, float]:
        """Lag, pending entries, spool size, CPU and memory of the agent."""
        health = self._health()
        # Not psutil's `cpu_percent`, which reads two files: a tenth of what all sources of a tick cost together.
        cpu = self._rates.update(now, {"tailrace_cpu_utilization_percentage": 100 * time.process_time()})
        return {
            "tailrace_lag_seconds": health.lag,
            "tailrace_pending_count": float(health.pending),
            "tailrace_spool_megabytes": health.spool_bytes / _MEGABYTE,
            "tailrace_memory_usage_megabytes": self._memory().rss / _MEGABYTE,
            **cpu,
        }

    def tags(self) -> dict[str, str]:
        """None."""
        return {}

    def totals(self) -> dict[str, float]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""
