"""The CPU: utilisation of the cores that training may use, load, context switches, clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from tailrace_agent.sampler import cgroup
from tailrace_agent.sampler.rates import SHORTEST, Rates

__all__ = ["CpuClockSource", "CpuSource"]

_ONLINE: Final = Path("/sys/devices/system/cpu/online")
_LIMITS_EVERY: Final = 30.0


class CpuSource:
    """Utilisation as MLflow calls it, of what the training process may use.

    Under a CPU quota it is the group's CPU time of what the quota allows; under a cpuset the mean of its cores; else
    the whole machine's. What is busy is counted as psutil does: neither idle nor waiting for a disk.

    Args:
        pid: The training process; None means this one.
        cores: Each core's utilisation, too.
        proc: Where `/proc/<pid>/cgroup` is.
        root: Where the control groups are mounted.
    """

    name = "cpu"
    every = 0.0

    def __init__(
        self, pid: int | None = None, *, cores: bool = False, proc: Path = Path("/proc"), root: Path = cgroup.ROOT
    ) -> None:
        self._pid, self._cores, self._proc, self._root = pid, cores, proc, root
        self._limits_at = -math.inf
        self._quota: cgroup.CpuLimit | None = None
        self._cpuset: frozenset[int] = frozenset()
        self._before: list[_Busy] = []
        self._before_at = -math.inf
        self._rates = Rates()

    def sample(self, now: float) -> dict[str, float]:
        """See `Source`."""
        # Limits change while a job runs (a resized pod), and to find them takes a dozen files.
        if now - self._limits_at >= _LIMITS_EVERY:
            self._read_limits(now)
        values = self._utilisation(now)
        values["cpu_load_average_1m"] = psutil.getloadavg()[0]
        use = cgroup.cpu_use(self._quota) if self._quota else None
        if self._quota is None or use is None:
            return values
        values.pop("cpu_utilization_percentage", None)  # of the machine: it does not measure the quota
        counters = {"cores": use.seconds, "periods": float(use.periods), "throttled": float(use.throttled)}
        return values | _of_quota(self._quota.cores, self._rates.update(now, counters))

    def tags(self) -> dict[str, str]:
        """See `Source`."""
        tags = {"cpu_count": str(psutil.cpu_count() or 0)}
        allowed = self._quota.cores if self._quota else len(self._cpuset)
        return {**tags, "cpu_allowed_count": f"{allowed:g}"} if allowed else tags

    def totals(self) -> dict[str, float]:
        """See `Source`."""
        return {}

    def close(self) -> None:
        """See `Source`."""

    def _read_limits(self, now: float) -> None:
        self._limits_at = now
        machine = psutil.cpu_count() or 1
        allowed = cgroup.cpuset(self._pid, proc=self._proc, root=self._root)
        cpuset = allowed if len(allowed) < machine else frozenset()
        quota = cgroup.cpu_limit(self._pid, proc=self._proc, root=self._root)
        # A quota that allows more than there is never binds: utilisation of it would stay below 100.
        if quota is not None and quota.cores >= (len(cpuset) or machine):
            quota = None
        if cpuset != self._cpuset or (quota is None) != (self._quota is None) or _moved(quota, self._quota):
            self._before, self._rates = [], Rates()  # counters of another group, or of other cores: no rate across
        self._cpuset, self._quota = cpuset, quota

    def _utilisation(self, now: float) -> dict[str, float]:
        if self._before and now - self._before_at < SHORTEST:
            return {}
        each = self._cores or bool(self._cpuset)
        times = [_Busy(core) for core in (psutil.cpu_times(percpu=True) if each else [psutil.cpu_times()])]
        before, self._before, self._before_at = self._before, times, now
        if len(before) != len(times):  # the first time, or a core was switched on or off
            return {}
        spent = [time.since(earlier) for time, earlier in zip(times, before, strict=True)]
        numbers = _core_numbers(len(times)) if each else range(1)
        own = [one for number, one in zip(numbers, spent, strict=True) if not self._cpuset or number in self._cpuset]
        values = _share(own)
        if self._cores:
            for number, one in zip(numbers, spent, strict=True):
                if not self._cpuset or number in self._cpuset:
                    values |= {f"cpu_core_{number}_utilization_percentage": 100 * one.busy / one.all} if one.all else {}
        return values


class CpuClockSource:
    """What changes slowly, or is dear on a machine of many cores: their mean clock, context switches, load averages."""

    name = "cpu clock"
    every = 10.0

    def __init__(self) -> None:
        self._rates = Rates()

    def sample(self, now: float) -> dict[str, float]:
        """See `Source`."""
        _, five, fifteen = psutil.getloadavg()
        values = {"cpu_load_average_5m": five, "cpu_load_average_15m": fifteen}
        values |= self._rates.update(now, {"cpu_context_switches_per_second": float(psutil.cpu_stats().ctx_switches)})
        frequency: Any = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
        if frequency is not None and frequency.current > 0:
            values["cpu_clock_megahertz"] = float(frequency.current)
        return values

    def tags(self) -> dict[str, str]:
        """See `Source`."""
        return {}

    def totals(self) -> dict[str, float]:
        """See `Source`."""
        return {}

    def close(self) -> None:
        """See `Source`."""


class _Busy:
    """CPU seconds of one core, or of all: in all, busy, and waiting for a disk (None where that is not counted)."""

    __slots__ = ("all", "busy", "iowait")

    def __init__(self, times: Any) -> None:
        # A guest's time is in `user` and `nice` already.
        self.all: float = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        self.iowait: float | None = getattr(times, "iowait", None)
        self.busy: float = self.all - times.idle - (self.iowait or 0.0)

    def since(self, earlier: _Busy) -> _Busy:
        """What was spent since then; the kernel's counters may go back a little, which counts as nothing."""
        spent = _Busy.__new__(_Busy)
        spent.all = max(0.0, self.all - earlier.all)
        spent.busy = min(spent.all, max(0.0, self.busy - earlier.busy))
        spent.iowait = None
        if self.iowait is not None and earlier.iowait is not None:
            spent.iowait = min(spent.all, max(0.0, self.iowait - earlier.iowait))
        return spent


def _share(cores: Sequence[_Busy]) -> dict[str, float]:
    spent = sum(core.all for core in cores)
    if spent <= 0:
        return {}
    values = {"cpu_utilization_percentage": 100 * sum(core.busy for core in cores) / spent}
    waits = [core.iowait for core in cores if core.iowait is not None]
    if waits:
        values["cpu_iowait_percentage"] = 100 * sum(waits) / spent
    return values


def _of_quota(cores: float, rates: dict[str, float]) -> dict[str, float]:
    values: dict[str, float] = {}
    if "cores" in rates:
        values["cpu_utilization_percentage"] = min(100.0, 100 * rates["cores"] / cores)
    if rates.get("periods") and "throttled" in rates:
        values["cpu_throttled_percentage"] = 100 * rates["throttled"] / rates["periods"]
    return values


def _moved(new: cgroup.CpuLimit | None, old: cgroup.CpuLimit | None) -> bool:
    return new is not None and old is not None and new.directory != old.directory


def _core_numbers(count: int) -> Sequence[int]:
    """The kernel's numbers of the cores that psutil lists: one that is switched off leaves a gap."""
    try:
        online = sorted(cgroup.parse_cores(_ONLINE.read_text().strip()))
    except OSError:
        online = []
    return online if len(online) == count else range(count)
