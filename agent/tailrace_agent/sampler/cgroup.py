"""What a process may use, by its control groups: CPU quota, cores, memory; in versions 2 and 1, and both at once.

A limit may stand at the process's own group or at any above it, and the tightest one decides. So a limit comes with the
directory it stands in: usage is read there, since all groups below share it.

Inside a container `/proc/<pid>/cgroup` may name a path of the host that is not mounted here; what is mounted is then
the container's own part of the tree. Every function takes the roots as arguments, and no answer is an exception: a
machine without control groups has no limits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

__all__ = ["ROOT", "CpuLimit", "CpuUse", "MemoryLimit", "cpu_limit", "cpu_use", "cpuset", "memory_limit", "memory_used"]

ROOT: Final = Path("/sys/fs/cgroup")
_PROC: Final = Path("/proc")


class CpuLimit(NamedTuple):
    """A CPU quota.

    Attributes:
        cores: CPU seconds per second.
        directory: The group that has the quota.
        usage: The file that counts its CPU time.
        version: 1 or 2.
    """

    cores: float
    directory: Path
    usage: Path
    version: int


class CpuUse(NamedTuple):
    """Counters of a group since it was made.

    Attributes:
        seconds: CPU time.
        periods: Enforcement periods.
        throttled: Periods in which the quota was used up.
    """

    seconds: float
    periods: int = 0
    throttled: int = 0


class MemoryLimit(NamedTuple):
    """A memory limit.

    Attributes:
        limit: Bytes.
        directory: The group that has the limit.
        version: 1 or 2.
    """

    limit: int
    directory: Path
    version: int


def cpu_limit(pid: int | None, *, proc: Path = _PROC, root: Path = ROOT) -> CpuLimit | None:
    """The tightest CPU quota that holds for a process (None: this one), or None where there is none."""
    limits: list[CpuLimit] = []
    for version, directory in _levels(pid, "cpu", proc, root):
        if version == 2:
            quota, _, period = _text(directory / "cpu.max").partition(" ")  # microseconds; missing in the root group
            usage = directory / "cpu.stat"
        else:
            quota, period = _text(directory / "cpu.cfs_quota_us"), _text(directory / "cpu.cfs_period_us")
            usage = _cpuacct(directory, pid, proc, root)
        if quota.isdigit() and period.isdigit() and int(period) > 0:  # else `max`, or -1, or no such file
            limits.append(CpuLimit(int(quota) / int(period), directory, usage, version))
    # From the bottom up; of equal limits the upper one binds, having more users.
    return min(reversed(limits), key=lambda limit: limit.cores, default=None)


def cpu_use(limit: CpuLimit) -> CpuUse | None:
    """What the group of a limit has used so far, or None where that is not counted."""
    stat = _table(limit.directory / "cpu.stat")
    periods, throttled = stat.get("nr_periods", 0), stat.get("nr_throttled", 0)
    if limit.version == 2:  # nanoseconds in version 1, microseconds in version 2
        return CpuUse(stat["usage_usec"] / 1e6, periods, throttled) if "usage_usec" in stat else None
    used = _number(limit.usage)
    return None if used is None else CpuUse(used / 1e9, periods, throttled)


def cpuset(pid: int | None, *, proc: Path = _PROC, root: Path = ROOT) -> frozenset[int]:
    """The cores that a process's group confines it to; empty where that is not set."""
    for version, directory in _levels(pid, "cpuset", proc, root):
        # The effective ones: what was configured may be empty, or name cores that are not there.
        names = ("cpuset.cpus.effective",) if version == 2 else ("cpuset.effective_cpus", "cpuset.cpus")
        for name in names:
            if cores := parse_cores(_text(directory / name)):
                return cores
    return frozenset()


def memory_limit(pid: int | None, *, proc: Path = _PROC, root: Path = ROOT) -> MemoryLimit | None:
    """The tightest memory limit that holds for a process (None: this one), or None where there is none.

    Version 1 writes "no limit" as a number near 2**63: the caller knows how much memory the machine has.
    """
    limits: list[MemoryLimit] = []
    for version, directory in _levels(pid, "memory", proc, root):
        limit = _number(directory / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if limit is not None:
            limits.append(MemoryLimit(limit, directory, version))
    return min(reversed(limits), key=lambda limit: limit.limit, default=None)


def memory_used(limit: MemoryLimit) -> int | None:
    """Bytes in use by the group of a limit, without the file cache that the kernel would give up first."""
    used = _number(limit.directory / ("memory.current" if limit.version == 2 else "memory.usage_in_bytes"))
    if used is None:
        return None
    cache = _table(limit.directory / "memory.stat")
    return max(0, used - cache.get("inactive_file" if limit.version == 2 else "total_inactive_file", 0))


def parse_cores(text: str) -> frozenset[int]:
    """The kernel's list format: `0-3,8` is cores 0, 1, 2, 3 and 8; what is no such list is none."""
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            return frozenset()
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def _levels(pid: int | None, controller: str, proc: Path, root: Path) -> Iterator[tuple[int, Path]]:
    """`(version, directory)` of a process's group for a controller, and of all groups above it, from the bottom up."""
    for version, base, path in _groups(pid, controller, proc, root):
        directory = _mounted(base, path)
        while True:
            yield version, directory
            if directory == base:
                break
            directory = directory.parent


def _groups(pid: int | None, controller: str, proc: Path, root: Path) -> Iterator[tuple[int, Path, str]]:
    """`(version, mount point, path below it)` of a process's groups that may have the controller."""
    for line in _text(proc / str(pid or "self") / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base = root if (root / "cgroup.controllers").exists() else root / "unified"
            if base.is_dir():
                yield 2, base, path
        elif controller in controllers.split(","):
            for name in (controller, controllers):
                if (root / name).is_dir():  # `cpu` may be a link to `cpu,cpuacct`, or not be there
                    yield 1, root / name, path
                    break


def _mounted(base: Path, path: str) -> Path:
    """Where a group is mounted: the longest end of its path that exists, `base` itself at the least."""
    parts = PurePosixPath(path).parts[1:]
    if ".." in parts:  # outside this process's cgroup namespace
        return base
    for start in range(len(parts)):
        directory = base.joinpath(*parts[start:])
        if directory.is_dir():
            return directory
    return base


def _cpuacct(directory: Path, pid: int | None, proc: Path, root: Path) -> Path:
    """The file that counts a version 1 group's CPU time; it may stand in a hierarchy of its own."""
    beside = directory / "cpuacct.usage"
    if beside.exists():
        return beside
    name = directory.name
    for version, level in _levels(pid, "cpuacct", proc, root):
        if version == 1 and level.name == name:
            return level / "cpuacct.usage"
    return beside


def _text(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _table(path: Path) -> dict[str, int]:
    """A file of lines `name value`."""
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
