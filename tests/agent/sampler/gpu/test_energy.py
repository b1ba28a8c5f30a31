"""Joules: from the driver's counter where there is one, else from the power."""

from __future__ import annotations

import pytest

from helpers.gpu_monitor import Monitor
from nvml.standin import Standin
from tailrace_agent.sampler.gpu.energy import EnergyMeter


def test_without_a_counter_energy_is_integrated_power(nvml: Standin) -> None:
    absent = "fail nvmlDeviceGetTotalEnergyConsumption * 3"
    nvml.script(absent)
    monitor = Monitor("0")
    monitor.sample(10)
    assert monitor.totals() == {}, "not measured is not zero"
    nvml.script(absent, "set 0 power 400000")
    monitor.sample(15)
    monitor.sample(20)
    assert monitor.totals() == {"gpu_0_energy_joules": pytest.approx(300 * 5 + 400 * 5)}


def test_a_counter_that_begins_anew_counts_from_there_and_the_power_fills_the_gap(nvml: Standin) -> None:
    monitor = Monitor("0")
    nvml.script("set 0 energy 4294967000")
    monitor.sample(0)
    nvml.script("set 0 energy 200000")
    monitor.sample(5)
    assert monitor.totals() == {"gpu_0_energy_joules": pytest.approx(200 * 5)}
    nvml.script("set 0 energy 500000")
    monitor.sample(10)
    assert monitor.totals() == {"gpu_0_energy_joules": pytest.approx(200 * 5 + 300)}


def test_a_meter_without_two_readings_has_no_sum() -> None:
    meter = EnergyMeter()
    assert meter.joules is meter.total(None) is meter.total(5) is None
    meter.read(0, None, None)
    meter.read(5, 5000, 3.0)
    assert meter.joules is None
    meter.read(6, None, 5.0)
    assert meter.joules == 4
