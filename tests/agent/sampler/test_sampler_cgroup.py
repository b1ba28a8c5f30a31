"""Limits are found in both versions of control groups, nested, half mounted or not there, and in a real one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tailrace_agent.sampler.cgroup import (
    CpuUse,
    cpu_limit,
    cpu_use,
    cpuset,
    memory_limit,
    memory_used,
    parse_cores,
)
from tailrace_agent.sampler.cpu import CpuSource
from tailrace_agent.sampler.memory import MemorySource

_GIB = 2**30
_NONE_V1 = "9223372036854771712\n"


class Machine:
    """A `/proc` and a `/sys/fs/cgroup` made of files."""

    def __init__(self, path: Path) -> None:
        self.proc, self.root = path / "proc", path / "cgroup"
        self.root.mkdir()

    def process(self, pid: int, *lines: str) -> None:
        (self.proc / str(pid)).mkdir(parents=True, exist_ok=True)
        (self.proc / str(pid) / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def group(self, path: str, **files: str | int) -> None:
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name.replace("__", ".")).write_text(f"{content}\n")

    def v2(self) -> None:
        self.group("", cgroup__controllers="cpu memory cpuset")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


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
    machine.group("memory/inner", memory__limit_in_bytes=_NONE_V1, memory__usage_in_bytes=4)
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


def test_memory_is_of_the_limit(machine: Machine) -> None:
    machine.v2()
    machine.process(7, "0::/job")
    machine.group("job", memory__max=10**9, memory__current=400_000_000, memory__stat="inactive_file 150000000")
    source = MemorySource(7, proc=machine.proc, root=machine.root)
    assert source.sample(100.0) == {
        "system_memory_usage_megabytes": 250.0,
        "system_memory_usage_percentage": 25.0,
        "system_memory_available_megabytes": 750.0,
    }
    assert source.tags()["system_memory_limit_megabytes"] == "1000"


def test_a_limit_that_is_changed_is_noticed(machine: Machine) -> None:
    machine.v2()
    machine.process(7, "0::/job")
    machine.group("job", memory__max=10**9, memory__current=10**8)
    source = MemorySource(7, proc=machine.proc, root=machine.root)
    assert source.sample(100.0)["system_memory_usage_percentage"] == 10.0
    machine.group("job", memory__max=2 * 10**9)
    assert source.sample(131.0)["system_memory_usage_percentage"] == 5.0


def test_no_limit_in_version_1_means_the_machines_memory(machine: Machine) -> None:
    machine.process(7, "1:memory:/job")
    machine.group("memory/job", memory__limit_in_bytes=_NONE_V1, memory__usage_in_bytes=5)
    source = MemorySource(7, proc=machine.proc, root=machine.root)
    memory = psutil.virtual_memory()
    values = source.sample(100.0)
    assert values["system_memory_usage_megabytes"] == pytest.approx(memory.used / 1e6, abs=200)
    assert "system_memory_limit_megabytes" not in source.tags()


# ── A real one ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def make_group() -> Iterator[Callable[[str], Path]]:
    """Makes a control group below this process's own, or skips."""
    made: list[Path] = []

    def make(controller: str) -> Path:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            base = Path("/sys/fs/cgroup") / (controller if controllers else "")
            if controllers and controller not in controllers.split(","):
                continue
            directory = base / path.lstrip("/") / f"tailrace-test-{os.getpid()}"
            try:
                directory.mkdir()
            except OSError as error:
                pytest.skip(f"no control group can be made here: {error.strerror}")
            made.append(directory)
            return directory
        pytest.skip(f"no control group has the {controller} controller here")

    yield make
    for directory in made:
        deadline = time.monotonic() + 5
        while directory.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                directory.rmdir()
            time.sleep(0.01)


def set_limit(directory: Path, **files: str | int) -> None:
    for name, value in files.items():
        path = directory / name.replace("__", ".")
        if not path.exists():
            pytest.skip(f"the real control group has no {path.name}")
        path.write_text(str(value))


@contextlib.contextmanager
def inside(groups: list[Path], code: str) -> Iterator[subprocess.Popen[str]]:
    """A child that joins the groups, says `ready` when `code` has set up, and stays until it is killed."""
    join = "".join(f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n" for group in groups)
    script = f"import os, sys, time\n{join}{code}"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_memory_under_a_real_limit(make_group: Callable[[str], Path]) -> None:
    group = make_group("memory")
    v2 = (group / "memory.max").exists()
    set_limit(group, **{"memory__max" if v2 else "memory__limit_in_bytes": 600_000_000})
    hold = "block = bytearray(300_000_000)\nfor i in range(0, len(block), 4096): block[i] = 1\n"
    with inside([group], hold + "print('ready', flush=True)\ntime.sleep(60)") as child:
        values = MemorySource(child.pid).sample(0.0)
    assert values["system_memory_usage_megabytes"] == pytest.approx(310, abs=20)
    assert values["system_memory_usage_percentage"] == pytest.approx(52, abs=4)


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
