"""Limits are found in both versions of control groups, nested, half mounted or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.control_groups import NONE_V1, Machine
from tailrace_agent.sampler.cgroup import CpuUse, cpu_limit, cpu_use, cpuset, memory_limit, memory_used, parse_cores

_GIB = 2**30


# ── Version 2 ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_v2_limits_of_the_group_itself(machine: Machine) -> None:
    machine.v2()
    machine.process(7, "0::/job")
    machine.group(
        "job",
        cpu__max="150000 100000",
        cpu__stat="usage_usec 2500000\nuser_usec 1\nnr_periods 40\nnr_throttled 10\nthrottled_usec 5",
        memory__max=4 * _GIB,
        memory__current=3 * _GIB,
        memory__stat=f"anon 5\ninactive_file {_GIB}\nactive_file 7",
        cpuset__cpus__effective="0-1,6",
    )
    limit = cpu_limit(7, proc=machine.proc, root=machine.root)
    assert limit is not None
    assert limit.cores == 1.5
    assert cpu_use(limit) == CpuUse(2.5, 40, 10)
    memory = memory_limit(7, proc=machine.proc, root=machine.root)
    assert memory is not None
    assert (memory.limit, memory_used(memory)) == (4 * _GIB, 2 * _GIB)
    assert cpuset(7, proc=machine.proc, root=machine.root) == {0, 1, 6}


def test_v2_the_tightest_limit_above_counts_with_the_usage_of_its_group(machine: Machine) -> None:
    machine.v2()
    machine.process(7, "0::/slice/job/step")
    machine.group("slice", cpu__max="800000 100000", memory__max=64 * _GIB, memory__current=9)
    machine.group("slice/job", cpu__max="200000 100000", memory__max=8 * _GIB, memory__current=5 * _GIB)
    machine.group("slice/job/step", cpu__max="max 100000", memory__max="max", memory__current=_GIB)
    limit = cpu_limit(7, proc=machine.proc, root=machine.root)
    memory = memory_limit(7, proc=machine.proc, root=machine.root)
    assert limit is not None
    assert memory is not None
    assert (limit.cores, limit.directory.name) == (2.0, "job")
    assert (memory.limit, memory_used(memory)) == (8 * _GIB, 5 * _GIB)


def test_v2_of_equal_limits_the_upper_one_binds_since_more_share_it(machine: Machine) -> None:
    machine.v2()
    machine.process(7, "0::/pod/container")
    machine.group("pod", memory__max=_GIB, cpu__max="100000 100000")
    machine.group("pod/container", memory__max=_GIB, cpu__max="50000 50000")
    limit = cpu_limit(7, proc=machine.proc, root=machine.root)
    memory = memory_limit(7, proc=machine.proc, root=machine.root)
    assert limit is not None
    assert memory is not None
    assert limit.directory.name == memory.directory.name == "pod"


def test_v2_inside_a_container_the_mounted_root_is_the_groups_own(machine: Machine) -> None:
    machine.v2()
    machine.process(7, "0::/")
    machine.group("", cpu__max="50000 100000", memory__max=_GIB)
    limit = cpu_limit(7, proc=machine.proc, root=machine.root)
    assert limit is not None
    assert limit.cores == 0.5


@pytest.mark.parametrize("path", ["/../../other", "/kubepods/pod1/abc", "/gone"])
def test_v2_a_path_that_is_not_mounted_here_means_the_mounted_root(machine: Machine, path: str) -> None:
    machine.v2()
    machine.process(7, f"0::{path}")
    machine.group("", memory__max=_GIB)
    memory = memory_limit(7, proc=machine.proc, root=machine.root)
    assert memory is not None
    assert memory.directory == machine.root


# ── Version 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_v1_limits_of_the_group_itself_with_controllers_mounted_together(machine: Machine) -> None:
    machine.process(7, "4:cpu,cpuacct:/job", "3:memory:/job", "2:cpuset:/job", "1:name=systemd:/job")
    machine.group(
        "cpu,cpuacct/job",
        cpu__cfs_quota_us=250000,
        cpu__cfs_period_us=100000,
        cpuacct__usage=7 * 10**9,
        cpu__stat="nr_periods 4\nnr_throttled 1\nthrottled_time 99",
    )
    machine.group(
        "memory/job",
        memory__limit_in_bytes=2 * _GIB,
        memory__usage_in_bytes=_GIB,
        memory__stat="cache 1\ninactive_file 1\ntotal_inactive_file 1000",
    )
    machine.group("cpuset/job", cpuset__cpus="0-3", cpuset__effective_cpus="2-3")
    limit = cpu_limit(7, proc=machine.proc, root=machine.root)
    memory = memory_limit(7, proc=machine.proc, root=machine.root)
    assert limit is not None
    assert memory is not None
    assert limit.cores == 2.5
    assert cpu_use(limit) == CpuUse(7.0, 4, 1)
    assert (memory.limit, memory_used(memory)) == (2 * _GIB, _GIB - 1000)
    assert cpuset(7, proc=machine.proc, root=machine.root) == {2, 3}


def test_v1_cpu_time_may_be_counted_in_a_hierarchy_of_its_own(machine: Machine) -> None:
    machine.process(7, "2:cpuacct:/job", "1:cpu:/job")
    machine.group("cpu/job", cpu__cfs_quota_us=100000, cpu__cfs_period_us=100000)
    machine.group("cpuacct/job", cpuacct__usage=3 * 10**9)
    limit = cpu_limit(7, proc=machine.proc, root=machine.root)
    assert limit is not None
    assert cpu_use(limit) == CpuUse(3.0)


def test_v1_docker_names_a_path_of_the_host_and_mounts_its_end(machine: Machine) -> None:
    machine.process(7, "3:memory:/docker/4f2/inner", "2:cpu,cpuacct:/docker/4f2")
    machine.group("memory", memory__limit_in_bytes=_GIB, memory__usage_in_bytes=5)
    machine.group("memory/inner", memory__limit_in_bytes=NONE_V1, memory__usage_in_bytes=4)
    machine.group("cpu", cpu__cfs_quota_us=100000, cpu__cfs_period_us=100000, cpuacct__usage=1)
    limit = cpu_limit(7, proc=machine.proc, root=machine.root)
    memory = memory_limit(7, proc=machine.proc, root=machine.root)
    assert limit is not None
    assert memory is not None
    assert (memory.limit, memory_used(memory)) == (_GIB, 5)


def test_both_versions_at_once(machine: Machine) -> None:
    machine.process(7, "3:memory:/job", "0::/user.slice")
    machine.group("unified/user.slice", cgroup__procs="")
    machine.group("memory/job", memory__limit_in_bytes=_GIB, memory__usage_in_bytes=1)
    memory = memory_limit(7, proc=machine.proc, root=machine.root)
    assert memory is not None
    assert (memory.limit, memory.version) == (_GIB, 1)


# ── No limit ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "quota",
    ["max 100000", "max", "", "100000 0", "x y", "-1 100000"],
)
def test_no_quota_and_nonsense_are_no_limit(machine: Machine, quota: str) -> None:
    machine.v2()
    machine.process(7, "0::/job")
    machine.group("job", cpu__max=quota, memory__max="max")
    assert cpu_limit(7, proc=machine.proc, root=machine.root) is None
    assert memory_limit(7, proc=machine.proc, root=machine.root) is None


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert cpu_limit(7, proc=nowhere, root=nowhere) is None
    assert memory_limit(7, proc=nowhere, root=nowhere) is None
    assert cpuset(7, proc=nowhere, root=nowhere) == frozenset()


@pytest.mark.parametrize(
    ("text", "cores"),
    [("0", {0}), ("0-3", {0, 1, 2, 3}), ("0-1,8", {0, 1, 8}), ("", set()), ("x", set()), ("3-", {3}), ("0,,1", set())],
)
def test_lists_of_cores_are_read_as_the_kernel_writes_them(text: str, cores: set[int]) -> None:
    assert parse_cores(text) == cores
