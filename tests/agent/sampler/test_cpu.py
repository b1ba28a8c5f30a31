"""The CPU's figures are right: against `/proc`, a load of known size, quotas and cpusets."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from helpers.control_groups import Machine, inside, set_limit
from helpers.loads import BURN, NOWHERE, READY, child, cpu_seconds, linux
from tailrace_agent.sampler.cpu import CpuClockSource, CpuSource

# ── The machine ──────────────────────────────────────────────────────────────────────────────────────────────────────


@linux
def test_a_core_that_burns_is_seen_in_the_utilisation_and_agrees_with_proc() -> None:
    def ticks() -> list[int]:
        return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]

    source = CpuSource(proc=NOWHERE, cores=True)
    with child(READY + BURN) as burner:
        source.sample(time.monotonic())
        before, own_before = ticks(), cpu_seconds(burner.pid)
        time.sleep(1.0)
        values = source.sample(time.monotonic())
        after, own_after = ticks(), cpu_seconds(burner.pid)
    spent = [late - early for late, early in zip(after, before, strict=True)]
    expected = 100 * (sum(spent) - spent[3] - spent[4]) / sum(spent)
    assert values["cpu_utilization_percentage"] == pytest.approx(expected, abs=10)
    burned = 100 * (own_after - own_before) / (psutil.cpu_count() or 1)
    assert values["cpu_utilization_percentage"] >= burned - 10
    cores = [value for name, value in values.items() if name.startswith("cpu_core_")]
    assert len(cores) == psutil.cpu_count()
    assert sum(cores) / len(cores) == pytest.approx(values["cpu_utilization_percentage"], abs=5)


def test_the_first_sample_of_the_cpu_has_no_utilisation_rather_than_zero() -> None:
    values = CpuSource().sample(time.monotonic())
    assert "cpu_utilization_percentage" not in values
    assert values["cpu_load_average_1m"] >= 0


@linux
def test_slow_figures_of_the_cpu_agree_with_proc() -> None:
    source = CpuClockSource()
    first = source.sample(time.monotonic())
    load = [float(field) for field in Path("/proc/loadavg").read_text().split()[:3]]
    assert first["cpu_load_average_5m"] == pytest.approx(load[1], abs=0.1)
    assert first["cpu_load_average_15m"] == pytest.approx(load[2], abs=0.1)
    assert "cpu_context_switches_per_second" not in first
    time.sleep(0.1)
    assert source.sample(time.monotonic())["cpu_context_switches_per_second"] > 0


# ── The sources ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_utilisation_is_of_the_quota_and_throttling_is_told(machine: Machine) -> None:
    machine.v2()
    machine.process(7, "0::/job")
    machine.group("job", cpu__max="50000 100000", cpu__stat="usage_usec 0\nnr_periods 100\nnr_throttled 0")
    source = CpuSource(7, proc=machine.proc, root=machine.root)
    first = source.sample(100.0)
    assert "cpu_utilization_percentage" not in first
    machine.group("job", cpu__stat="usage_usec 200000\nnr_periods 110\nnr_throttled 4")
    second = source.sample(101.0)
    assert second["cpu_utilization_percentage"] == pytest.approx(40.0)
    assert second["cpu_throttled_percentage"] == pytest.approx(40.0)
    assert source.tags()["cpu_allowed_count"] == "0.5"


def test_a_quota_beyond_the_machine_is_none(machine: Machine) -> None:
    machine.v2()
    machine.process(7, "0::/job")
    machine.group("job", cpu__max=f"{(psutil.cpu_count() or 1) * 100000} 100000", cpu__stat="usage_usec 0")
    source = CpuSource(7, proc=machine.proc, root=machine.root)
    source.sample(100.0)
    assert "cpu_allowed_count" not in source.tags()


def test_a_quota_whose_use_is_not_counted_leaves_the_machines_utilisation(machine: Machine) -> None:
    machine.process(7, "1:cpu:/job")
    machine.group("cpu/job", cpu__cfs_quota_us=50000, cpu__cfs_period_us=100000)
    source = CpuSource(7, proc=machine.proc, root=machine.root)
    source.sample(time.monotonic())
    time.sleep(0.1)
    assert "cpu_utilization_percentage" in source.sample(time.monotonic())


@pytest.mark.skipif((psutil.cpu_count() or 1) < 2, reason="one core only")
def test_under_a_cpuset_only_its_cores_count(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.v2()
    machine.process(7, "0::/job")
    machine.group("job", cpuset__cpus__effective="1")
    times = type(psutil.cpu_times())
    count = psutil.cpu_count() or 1
    seconds = iter([0.0, 10.0])

    def cpu_times(percpu: bool = False) -> Sequence[object]:
        assert percpu
        spent = next(seconds)
        zeros = dict.fromkeys(times._fields, 0.0)
        busy = [times(**{**zeros, "user": spent}) for _ in range(count)]
        busy[1] = times(**{**zeros, "user": spent / 4, "idle": spent / 2, "iowait": spent / 4})
        return busy

    monkeypatch.setattr(psutil, "cpu_times", cpu_times)
    source = CpuSource(7, cores=True, proc=machine.proc, root=machine.root)
    source.sample(100.0)
    values = source.sample(110.0)
    assert values["cpu_utilization_percentage"] == pytest.approx(25.0)
    assert values["cpu_iowait_percentage"] == pytest.approx(25.0)
    assert [name for name in values if name.startswith("cpu_core_")] == ["cpu_core_1_utilization_percentage"]


# ── A real one ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_utilisation_under_a_real_quota(make_group: Callable[[str], Path]) -> None:
    group = make_group("cpu")
    v2 = (group / "cpu.max").exists()
    if v2:
        set_limit(group, cpu__max="10000 100000")
        groups = [group]
    else:
        set_limit(group, cpu__cfs_quota_us=10000)
        groups = [group] if (group / "cpuacct.usage").exists() else [group, make_group("cpuacct")]
    with inside(groups, "print('ready', flush=True)\nwhile True: pass") as child:
        source = CpuSource(child.pid)
        source.sample(time.monotonic())
        time.sleep(1.0)
        values = source.sample(time.monotonic())
    assert source.tags()["cpu_allowed_count"] == "0.1"
    assert 40 <= values["cpu_utilization_percentage"] <= 100
    assert values["cpu_throttled_percentage"] > 30
