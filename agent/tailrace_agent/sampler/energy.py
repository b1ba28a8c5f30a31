"""Energy of the CPU packages and of the memory, from the counters that Intel's and AMD's chips keep (RAPL).

They are readable where an administrator allowed it: the default is root only, since power can leak what is computed.
A counter wraps after some 65 to 262 kilojoules (minutes to an hour), so it must be read more often than that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from tailrace_agent.sampler.rates import SHORTEST
from tailrace_agent.sampler.source import SourceGone

__all__ = ["CpuEnergySource"]

_MOST_WATTS: Final = 500
"""Of one package: a counter that may have wrapped at that power since it was last read is of no use."""


class _Zone(NamedTuple):
    device: str  # "cpu" or "dram"
    file: Path
    wraps_at: int


class CpuEnergySource:
    """Watts at each tick, joules in all.

    Args:
        root: Where the kernel lists the zones.
    """

    name = "cpu energy"
    every = 0.0

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        self._root = root
        self._zones: list[_Zone] = []
        self._before: list[int] = []
        self._before_at = 0.0
        self._joules: dict[str, float] = {}

    def sample(self, now: float) -> dict[str, float]:
        """See `Source`."""
        if not self._zones:
            self._zones, self._before = self._find(), []
        elapsed = now - self._before_at
        if self._before and elapsed < SHORTEST:
            return {}
        try:
            readings = [int(zone.file.read_text()) for zone in self._zones]
        except (OSError, ValueError) as error:
            # Looked for anew at the next try: after a change of permissions or of drivers they may be others.
            self.close()
            raise SourceGone(f"the energy counters cannot be read: {error}") from None
        before, self._before, self._before_at = self._before, readings, now
        # Beyond that a counter may have wrapped more than once, which nobody could tell.
        if not before or elapsed > min(zone.wraps_at for zone in self._zones) / 1e6 / _MOST_WATTS:
            return {}
        spent: dict[str, float] = {}
        for zone, reading, earlier in zip(self._zones, readings, before, strict=True):
            joules = _difference(reading, earlier, zone.wraps_at) / 1e6
            spent[zone.device] = spent.get(zone.device, 0.0) + joules
        for device, joules in spent.items():
            self._joules[device] = self._joules.get(device, 0.0) + joules
        return {f"{device}_power_usage_watts": joules / elapsed for device, joules in spent.items()}

    def tags(self) -> dict[str, str]:
        """See `Source`."""
        return {}

    def totals(self) -> dict[str, float]:
        """See `Source`."""
        return {f"{device}_energy_joules": joules for device, joules in self._joules.items()}

    def close(self) -> None:
        """See `Source`."""
        self._zones, self._before = [], []

    def _find(self) -> list[_Zone]:
        """Packages and their memory. A package's cores are part of it, and `psys` and `-mmio` show it once more."""
        zones: list[_Zone] = []
        for directory in sorted(self._root.glob("intel-rapl:*")):
            try:
                label = (directory / "name").read_text().strip()
                wraps_at = int((directory / "max_energy_range_uj").read_text())
            except (OSError, ValueError):
                continue
            if label.startswith("package") or label == "dram":
                device = "dram" if label == "dram" else "cpu"
                zones.append(_Zone(device, directory / "energy_uj", wraps_at))
        if not zones:
            raise SourceGone("the CPU has no energy counters that are shown here")
        return zones


def _difference(now: int, before: int, wraps_at: int) -> int:
    return now - before if now >= before else now + wraps_at - before
