"""The CPU's energy, from counters that wrap, and that only root may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace_agent.sampler.energy import CpuEnergySource
from tailrace_agent.sampler.source import SourceGone


class Rapl:
    """A `/sys/class/powercap` made of files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def zone(self, zone: str, name: str, microjoules: int, wraps_at: int = 262_143_328_850) -> None:
        directory = self.root / zone
        directory.mkdir(exist_ok=True)
        (directory / "name").write_text(f"{name}\n")
        (directory / "energy_uj").write_text(f"{microjoules}\n")
        (directory / "max_energy_range_uj").write_text(f"{wraps_at}\n")


def test_energy_is_that_of_packages_and_memory_once(tmp_path: Path) -> None:
    rapl = Rapl(tmp_path)

    def spend(joules: int) -> None:
        rapl.zone("intel-rapl:0", "package-0", 10**9 + joules * 10**6)
        rapl.zone("intel-rapl:1", "package-1", joules * 10**6)
        rapl.zone("intel-rapl:0:0", "core", joules * 10**6)
        rapl.zone("intel-rapl:0:1", "dram", joules * 10**5)
        rapl.zone("intel-rapl:2", "psys", joules * 10**7)
        rapl.zone("intel-rapl-mmio:0", "package-0", joules * 10**6)

    source = CpuEnergySource(tmp_path)
    spend(0)
    assert source.sample(0.0) == {}
    assert source.totals() == {}
    spend(100)
    assert source.sample(2.0) == {"cpu_power_usage_watts": 100.0, "dram_power_usage_watts": 5.0}
    spend(150)
    source.sample(3.0)
    assert source.totals() == {"cpu_energy_joules": 300.0, "dram_energy_joules": 15.0}


def test_an_energy_counter_may_wrap(tmp_path: Path) -> None:
    rapl = Rapl(tmp_path)
    source = CpuEnergySource(tmp_path)
    rapl.zone("intel-rapl:0", "package-0", 65_500_000_000, wraps_at=65_532_610_987)
    source.sample(0.0)
    rapl.zone("intel-rapl:0", "package-0", 17_389_013, wraps_at=65_532_610_987)
    assert source.sample(1.0)["cpu_power_usage_watts"] == pytest.approx(50.0)


def test_a_counter_that_may_have_wrapped_more_than_once_tells_nothing(tmp_path: Path) -> None:
    rapl = Rapl(tmp_path)
    source = CpuEnergySource(tmp_path)
    rapl.zone("intel-rapl:0", "package-0", 0, wraps_at=65_532_610_987)
    source.sample(0.0)
    rapl.zone("intel-rapl:0", "package-0", 10**9, wraps_at=65_532_610_987)
    assert source.sample(3600.0) == {}
    assert source.totals() == {}


def test_without_counters_there_is_no_energy_rather_than_zero(tmp_path: Path) -> None:
    with pytest.raises(SourceGone):
        CpuEnergySource(tmp_path / "nowhere").sample(0.0)
    assert CpuEnergySource(tmp_path).totals() == {}


def test_counters_that_only_root_may_read_are_missing_with_a_reason(tmp_path: Path) -> None:
    rapl = Rapl(tmp_path)
    rapl.zone("intel-rapl:0", "package-0", 5)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir()  # unreadable for root, too
    with pytest.raises(SourceGone, match="cannot be read"):
        CpuEnergySource(tmp_path).sample(0.0)
