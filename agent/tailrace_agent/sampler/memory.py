"""Memory and swap, with the control group's limit as the denominator where there is one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import psutil

from tailrace_agent.sampler import cgroup
from tailrace_agent.sampler.rates import Rates
from tailrace_agent.sampler.source import SourceGone

__all__ = ["MemorySource", "SwapSource"]

_MEGA: Final = 1e6
"""MLflow's megabyte."""
_LIMITS_EVERY: Final = 30.0


class MemorySource:
    """Memory in use, as MLflow calls it, of what the training process may use.

    Args:
        pid: The training process; None means this one.
        proc: Where `/proc/<pid>/cgroup` is.
        root: Where the control groups are mounted.
    """

    name = "memory"
    every = 0.0

    def __init__(self, pid: int | None = None, *, proc: Path = Path("/proc"), root: Path = cgroup.ROOT) -> None:
        self._pid, self._proc, self._root = pid, proc, root
        self._limits_at = -math.inf
        self._limit: cgroup.MemoryLimit | None = None

    def sample(self, now: float) -> dict[str, float]:
        """See `Source`."""
        if now - self._limits_at >= _LIMITS_EVERY:
            self._limits_at = now
            self._read_limit()
        used = cgroup.memory_used(self._limit) if self._limit else None
        if self._limit is not None and used is not None:
            # Not below 0: usage may pass the limit for a moment.
            total, available = self._limit.limit, max(0, self._limit.limit - used)
        else:
            memory = psutil.virtual_memory()
            used, total, available = memory.used, memory.total, memory.available
        return {
            "system_memory_usage_megabytes": used / _MEGA,
            "system_memory_usage_percentage": 100 * used / total,
            "system_memory_available_megabytes": available / _MEGA,
        }

    def tags(self) -> dict[str, str]:
        """See `Source`."""
        tags = {"system_memory_megabytes": f"{psutil.virtual_memory().total / _MEGA:.0f}"}
        if self._limit is not None:
            tags["system_memory_limit_megabytes"] = f"{self._limit.limit / _MEGA:.0f}"
        return tags

    def totals(self) -> dict[str, float]:
        """See `Source`."""
        return {}

    def close(self) -> None:
        """See `Source`."""

    def _read_limit(self) -> None:
        limit = cgroup.memory_limit(self._pid, proc=self._proc, root=self._root)
        # A limit of 0 is a group that is being emptied; one above the machine's memory is how version 1 writes "none".
        limits = limit is not None and 0 < limit.limit < psutil.virtual_memory().total
        self._limit = limit if limits else None


class SwapSource:
    """Swap of the whole machine."""

    name = "swap"
    every = 10.0

    def __init__(self) -> None:
        self._rates = Rates()

    def sample(self, now: float) -> dict[str, float]:
        """See `Source`."""
        swap = psutil.swap_memory()
        if swap.total == 0:
            raise SourceGone("there is no swap")
        rates = self._rates.update(
            now,
            {"swap_in_megabytes_per_second": swap.sin / _MEGA, "swap_out_megabytes_per_second": swap.sout / _MEGA},
        )
        return {
            "swap_usage_megabytes": swap.used / _MEGA,
            "swap_usage_percentage": 100 * swap.used / swap.total,
            **rates,
        }

    def tags(self) -> dict[str, str]:
        """See `Source`."""
        return {}

    def totals(self) -> dict[str, float]:
        """See `Source`."""
        return {}

    def close(self) -> None:
        """See `Source`."""
