"""Power, throttling, and energy in all."""

from __future__ import annotations

import pytest

from helpers.gpu_monitor import Monitor
from nvml.standin import Standin


@pytest.mark.parametrize(
    ("mask", "throttled"),
    [(0x1, []), (0x80, ["power"]), (0x20, ["thermal"]), (0x48, ["hardware", "thermal"]), (0x8, ["hardware"])],
)
def test_throttling(nvml: Standin, mask: int, throttled: list[str]) -> None:
    nvml.script(f"set 0 reasons {mask}")
    values = Monitor("0").sample(0)
    assert sorted(name[16:] for name, value in values.items() if "throttled" in name and value) == throttled


# ------------------------------------------------------------------------------------------------ what does not work


def test_a_power_limit_that_is_not_told_costs_the_percentage_alone(nvml: Standin) -> None:
    for problem in ("fail nvmlDeviceGetEnforcedPowerLimit 0 3", "set 0 limit 0"):
        nvml.script(problem)
        values = Monitor("0").sample(0)
        assert "gpu_0_power_usage_watts" in values
        assert "gpu_0_power_usage_percentage" not in values


# ------------------------------------------------------------------------------------------------------------ energy


def test_energy_is_what_the_drivers_counter_grew_by_up_to_the_moment_it_is_asked_for(nvml: Standin) -> None:
    monitor = Monitor("0")
    monitor.sample(0)
    assert monitor.totals() == {"gpu_0_energy_joules": 0.0}
    nvml.script("set 0 energy 6500000")
    assert monitor.totals() == {"gpu_0_energy_joules": 1500.0}
    monitor.sample(5)
    nvml.script("set 0 energy 7000000")
    assert monitor.totals() == monitor.totals() == {"gpu_0_energy_joules": 2000.0}
    monitor.close()
    assert monitor.totals() == {"gpu_0_energy_joules": 1500.0}, "what was read until then"


def test_without_counter_and_power_there_is_no_energy(nvml: Standin) -> None:
    nvml.script("fail nvmlDeviceGetTotalEnergyConsumption * 3", "fail nvmlDeviceGetPowerUsage * 3")
    monitor = Monitor()
    monitor.rounds(0, 6)
    assert monitor.totals() == {}


def test_a_gpu_that_was_lost_has_used_what_its_counter_says_and_no_power_is_made_up(nvml: Standin) -> None:
    monitor = Monitor("0,1")
    nvml.script("fail nvmlDeviceGetTotalEnergyConsumption 1 3")
    monitor.sample(0)
    monitor.sample(5)
    nvml.script("lost 0", "lost 1")
    monitor.sample(10)
    monitor.sample(15)
    assert monitor.totals() == {"gpu_0_energy_joules": 0.0, "gpu_1_energy_joules": 1000.0}
    nvml.script("fail nvmlDeviceGetTotalEnergyConsumption 1 3", "set 0 energy 9000000")
    monitor.sample(1000)
    monitor.sample(1005)
    assert monitor.totals() == {"gpu_0_energy_joules": 4000.0, "gpu_1_energy_joules": pytest.approx(2000)}
