"""The file system of the working directory, and what the disks read and write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil

from tailrace_agent.sampler.rates import Rates
from tailrace_agent.sampler.source import SourceGone

__all__ = ["DiskIoSource", "DiskUsageSource"]

_MEGA: Final = 1e6
"""MLflow's megabyte."""
_PATIENCE: Final = 0.05  # seconds; all other sources of the tick wait meanwhile
_NEVER: Final = ("loop", "ram", "zram", "sr", "fd")
"""Devices that are no disks."""


class DiskUsageSource:
    """How full a directory's file system is, by MLflow's names; MLflow's own are of `/` only.

    A network file system whose server is away keeps its callers waiting, minutes or for ever. So it is read in a
    thread, one at a time, and no answer within 50 ms is a failure like any other.

    Args:
        path: The directory; None means the working directory.
        usage: `psutil.disk_usage`, or a stand-in.
    """

    name = "disk usage"
    every = 10.0

    def __init__(self, path: str | None = None, *, usage: Callable[[str], Any] = psutil.disk_usage) -> None:
        self._path, self._usage = path or ".", usage
        self._query: threading.Thread | None = None
        self._answer: Any = None

    def sample(self, now: float) -> dict[str, float]:  # noqa: ARG002 - the protocol's
        """See `Source`."""
        if self._query is None:
            self._answer = None
            # One at a time: whoever hangs in the kernel cannot be ended, and each would be one more.
            self._query = threading.Thread(target=self._measure, name="tailrace-disk-usage", daemon=True)
            self._query.start()
        self._query.join(_PATIENCE)
        if self._query.is_alive():
            raise TimeoutError(f"the file system of {self._path} does not answer")
        self._query = None
        if isinstance(self._answer, OSError):
            raise self._answer
        return {
            "disk_usage_percentage": float(self._answer.percent),
            "disk_usage_megabytes": self._answer.used / _MEGA,
            "disk_available_megabytes": self._answer.free / _MEGA,
        }

    def tags(self) -> dict[str, str]:
        """See `Source`."""
        return {}

    def totals(self) -> dict[str, float]:
        """See `Source`."""
        return {}

    def close(self) -> None:
        """See `Source`."""

    def _measure(self) -> None:
        try:
            self._answer = self._usage(self._path)
        except OSError as error:
            self._answer = error


class DiskIoSource:
    """Throughput of all disks together, and how busy the busiest is. Each byte counts once, RAID and LVM or not.

    Args:
        block: Where the kernel lists block devices.
    """

    name = "disk"
    every = 0.0

    def __init__(self, block: Path = Path("/sys/block")) -> None:
        self._block = block
        self._is_disk: dict[str, bool] = {}
        self._rates = Rates()

    def sample(self, now: float) -> dict[str, float]:
        """See `Source`."""
        # `nowrap` would keep every device's history, for counters that wrap at 32 bits on kernels before 2.6.
        disks = psutil.disk_io_counters(perdisk=True, nowrap=False)
        counters: dict[str, float] = {}
        for name, disk in disks.items():
            if self._counts(name):
                counters[f"r/{name}"], counters[f"w/{name}"] = disk.read_bytes, disk.write_bytes
                if hasattr(disk, "busy_time"):
                    counters[f"b/{name}"] = disk.busy_time
        if not counters:
            raise SourceGone("there is no disk to be seen")
        rates = self._rates.update(now, counters)
        values: dict[str, float] = {}
        if reads := [rate for name, rate in rates.items() if name[0] == "r"]:
            values["disk_read_megabytes_per_second"] = sum(reads) / _MEGA
        if writes := [rate for name, rate in rates.items() if name[0] == "w"]:
            values["disk_write_megabytes_per_second"] = sum(writes) / _MEGA
        if busy := [rate for name, rate in rates.items() if name[0] == "b"]:
            values["disk_busy_percentage"] = min(100.0, max(busy) / 10)  # milliseconds per second
        return values

    def tags(self) -> dict[str, str]:
        """See `Source`."""
        return {}

    def totals(self) -> dict[str, float]:
        """See `Source`."""
        return {}

    def close(self) -> None:
        """See `Source`."""

    def _counts(self, name: str) -> bool:
        known = self._is_disk.get(name)
        if known is None:
            known = self._is_disk[name] = self._look(name)
        return known

    def _look(self, name: str) -> bool:
        if not self._block.is_dir():  # no Linux: psutil lists whole disks only
            return True
        if name.rstrip("0123456789") in _NEVER:
            return False
        # sysfs writes the slash of a name like `cciss/c0d0` so.
        device = self._block / name.replace("/", "!")
        if not device.is_dir():  # a partition
            return False
        slaves = device / "slaves"
        return not (slaves.is_dir() and any(slaves.iterdir()))  # made of other devices: LVM, RAID
