"""The figures are right: against `/proc`, and against loads whose size is known."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tailrace_agent.sampler.config import MonitorConfig
from tailrace_agent.sampler.cpu import CpuClockSource, CpuSource
from tailrace_agent.sampler.disk import DiskIoSource, DiskUsageSource
from tailrace_agent.sampler.energy import CpuEnergySource
from tailrace_agent.sampler.family_member import _from_psutil, read_stat
from tailrace_agent.sampler.memory import MemorySource, SwapSource
from tailrace_agent.sampler.network import NetworkSource
from tailrace_agent.sampler.process import ProcessSource
from tailrace_agent.sampler.sampler import Sample, Sampler
from tailrace_agent.sampler.source import SourceGone
from tailrace_agent.sampler.sources import host_sources

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
NOWHERE = Path("/nowhere")


@contextlib.contextmanager
def child(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs `code`, which prints `ready` when its load is on; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os, sys, time\n{code}", *arguments],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    try:
        expect(process, "ready")
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def expect(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == line


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


READY = "print('ready', flush=True)\n"
WAIT = "sys.stdin.readline()\n"
BURN = "while True: pass\n"


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


def test_memory_has_mlflows_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=8_000_000_000, used=2_000_000_000, available=5_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert MemorySource(proc=NOWHERE).sample(0.0) == {
        "system_memory_usage_megabytes": 2000.0,
        "system_memory_usage_percentage": 25.0,
        "system_memory_available_megabytes": 5000.0,
    }


@linux
def test_memory_agrees_with_proc_while_300_megabytes_are_taken() -> None:
    def taken() -> float:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("MemTotal", "MemAvailable"))
        return total - available

    # Compared with the kernel's figure of the same moment: a virtual machine gives freed memory back to its host at its
    # own pace, and others on this machine allocate, too. Exactly 300 MB are asked for where nobody else is: in
    # test_sampler_cgroup.py, and below for a process.
    source = MemorySource(proc=NOWHERE)
    hold = "block = bytearray(300_000_000)\nfor i in range(0, len(block), 4096): block[i] = 1\n"
    expected, before = taken(), source.sample(0.0)["system_memory_usage_megabytes"]
    with child(hold + READY + WAIT):
        grown = source.sample(1.0)["system_memory_usage_megabytes"] - before
        expected = taken() - expected
    assert grown == pytest.approx(expected, abs=50)


def test_a_machine_without_swap_has_no_swap_rather_than_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    swap = SimpleNamespace(total=0, used=0, sin=0, sout=0)
    monkeypatch.setattr(psutil, "swap_memory", lambda: swap)
    with pytest.raises(SourceGone):
        SwapSource().sample(0.0)


def test_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    swap = SimpleNamespace(total=4_000_000, used=1_000_000, sin=0, sout=2_000_000)
    monkeypatch.setattr(psutil, "swap_memory", lambda: swap)
    source = SwapSource()
    assert source.sample(0.0) == {"swap_usage_megabytes": 1.0, "swap_usage_percentage": 25.0}
    swap.sout = 12_000_000
    values = source.sample(10.0)
    assert values["swap_out_megabytes_per_second"] == 1.0
    assert values["swap_in_megabytes_per_second"] == 0.0


# ── Disks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_disk_usage_is_that_of_the_directory_in_mlflows_units(tmp_path: Path) -> None:
    values = DiskUsageSource(str(tmp_path)).sample(0.0)
    _, used, free = shutil.disk_usage(tmp_path)
    assert values["disk_usage_megabytes"] == pytest.approx(used / 1e6, abs=500)
    assert values["disk_available_megabytes"] == pytest.approx(free / 1e6, abs=500)
    assert values["disk_usage_percentage"] == pytest.approx(100 * used / (used + free), abs=1)


@linux
def test_another_file_system_than_the_root_is_measured_where_the_work_is() -> None:
    if Path("/dev/shm").stat().st_dev == Path("/").stat().st_dev:
        pytest.skip("/dev/shm is on the root file system")
    free = DiskUsageSource("/dev/shm").sample(0.0)["disk_available_megabytes"]
    assert free == pytest.approx(shutil.disk_usage("/dev/shm").free / 1e6, abs=200)


def test_a_directory_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DiskUsageSource(str(tmp_path / "gone")).sample(0.0)


def test_a_file_system_that_does_not_answer_holds_nothing_up_and_is_asked_once() -> None:
    answers = threading.Event()
    asked: list[str] = []

    def usage(path: str) -> Any:
        asked.append(path)
        answers.wait(10)
        return SimpleNamespace(percent=50.0, used=1e6, free=1e6)

    source = DiskUsageSource("/mnt/nfs", usage=usage)
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(TimeoutError, match="/mnt/nfs does not answer"):
            source.sample(0.0)
    assert time.monotonic() - begun < 2
    assert asked == ["/mnt/nfs"]
    answers.set()
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(TimeoutError):
            assert source.sample(0.0)["disk_usage_megabytes"] == 1.0
            break
        assert time.monotonic() < deadline


@linux
def test_100_megabytes_written_are_seen_by_the_process_and_by_the_disks(tmp_path: Path) -> None:
    code = (
        "file = open(sys.argv[1], 'wb', buffering=0)\n"
        + READY
        + WAIT
        + "for _ in range(100): file.write(bytes(1000000))\n"
        "os.fsync(file.fileno())\nprint('written', flush=True)\n" + WAIT
    )
    disks = DiskIoSource()
    with child(code, str(tmp_path / "data")) as writer:
        process = ProcessSource(writer.pid)
        process.sample(0.0)
        try:
            disks.sample(0.0)
        except SourceGone as error:
            pytest.skip(f"no disk to measure here: {error}")
        tell(writer)
        expect(writer, "written")
        by_process = process.sample(10.0)
        by_disks = disks.sample(10.0)
    if psutil.Process().io_counters().write_bytes == 0 and not by_process.get("process_write_megabytes_per_second"):
        pytest.skip("the temporary directory is not on a disk")
    assert by_process["process_write_megabytes_per_second"] == pytest.approx(10.0, rel=0.02)
    assert by_disks["disk_write_megabytes_per_second"] >= 9.5
    assert 0 <= by_disks["disk_busy_percentage"] <= 100


def test_disks_made_of_other_disks_and_partitions_are_not_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sda", "nvme0n1", "dm-0", "md1", "loop0", "zram0"):
        (tmp_path / name / "slaves").mkdir(parents=True)
    (tmp_path / "dm-0" / "slaves" / "sda").mkdir()
    (tmp_path / "md1" / "slaves" / "nvme0n1").mkdir()
    moved = 0

    def counters(**_: object) -> Mapping[str, Any]:
        names = ("sda", "sda1", "sda2", "nvme0n1", "nvme0n1p1", "dm-0", "md1", "loop0", "zram0")
        busy = {"nvme0n1": moved / 2e6 * 500}
        return {
            name: SimpleNamespace(read_bytes=moved, write_bytes=2 * moved, busy_time=busy.get(name, 0))
            for name in names
        }

    monkeypatch.setattr(psutil, "disk_io_counters", counters)
    source = DiskIoSource(tmp_path)
    assert source.sample(0.0) == {}
    moved = 2_000_000
    assert source.sample(1.0) == {
        "disk_read_megabytes_per_second": 4.0,
        "disk_write_megabytes_per_second": 8.0,
        "disk_busy_percentage": 50.0,
    }


def test_a_machine_without_disks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "disk_io_counters", lambda **_: {})
    with pytest.raises(SourceGone):
        DiskIoSource().sample(0.0)


# ── Network ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_network_is_counted_since_the_start_and_interfaces_may_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    now: dict[str, Any] = {}
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: now)

    def interface(name: str, received: int, sent: int) -> None:
        now[name] = SimpleNamespace(bytes_recv=received, bytes_sent=sent)

    source = NetworkSource()
    with pytest.raises(SourceGone):
        source.sample(0.0)
    interface("eth0", 5_000_000, 7_000_000)
    assert source.sample(0.0) == {"network_receive_megabytes": 0.0, "network_transmit_megabytes": 0.0}
    interface("eth0", 9_000_000, 7_000_000)
    interface("veth1", 80_000_000, 0)  # counted from here on
    assert source.sample(2.0) == {
        "network_receive_megabytes": 4.0,
        "network_transmit_megabytes": 0.0,
        "network_receive_megabytes_per_second": 2.0,
        "network_transmit_megabytes_per_second": 0.0,
    }
    del now["veth1"]
    interface("eth0", 1_000_000, 0)  # restarted
    assert source.sample(4.0)["network_receive_megabytes"] == 4.0
    interface("eth0", 3_000_000, 0)
    assert source.sample(6.0)["network_receive_megabytes_per_second"] == 1.0


@linux
def test_network_agrees_with_proc() -> None:
    def received() -> int:
        lines = Path("/proc/net/dev").read_text().splitlines()[2:]
        return sum(int(line.partition(":")[2].split()[0]) for line in lines)

    source = NetworkSource()
    before = received()
    source.sample(0.0)
    code = "import socket\na = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\na.bind(('127.0.0.1', 0))\n"
    code += "for _ in range(500): a.sendto(bytes(10000), a.getsockname()); a.recv(20000)\n"
    with child(code + READY + WAIT):
        values = source.sample(1.0)
        after = received()
    assert 5.0 <= values["network_receive_megabytes"] <= (after - before) / 1e6


# ── The training process and its children ────────────────────────────────────────────────────────────────────────────


@linux
def test_a_process_that_burns_a_core_agrees_with_proc() -> None:
    with child(READY + BURN) as burner:
        source = ProcessSource(burner.pid)
        begun, outer = time.monotonic(), cpu_seconds(burner.pid)
        assert "process_cpu_utilization_percentage" not in source.sample(begun)
        inner = cpu_seconds(burner.pid)
        time.sleep(1.0)
        now = time.monotonic()
        inner = cpu_seconds(burner.pid) - inner
        values = source.sample(now)
        outer = cpu_seconds(burner.pid) - outer
    lowest, highest = (100 * seconds / (now - begun) for seconds in (inner, outer))
    assert lowest - 1 <= values["process_cpu_utilization_percentage"] <= highest + 1
    assert values["process_cpu_utilization_percentage"] > 10
    assert values["process_children_count"] == 0
    assert "process_children_cpu_utilization_percentage" not in values


@linux
def test_a_process_that_holds_300_megabytes_in_three_threads_with_open_files() -> None:
    code = (
        "import threading\nblock = bytearray(300_000_000)\n"
        "for i in range(0, len(block), 4096): block[i] = 1\n"
        "files = [open('/dev/null') for _ in range(20)]\n"
        "for _ in range(2): threading.Thread(target=sys.stdin.readline, daemon=True).start()\n"
    )
    with child(code + READY + "time.sleep(60)\n") as holder:
        source = ProcessSource(holder.pid)
        first, second = source.sample(0.0), source.sample(1.0)
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{holder.pid}/status").read_text().splitlines() if ":" in line
        )
        files = len(list(Path(f"/proc/{holder.pid}/fd").iterdir()))
    assert first["process_memory_rss_megabytes"] == pytest.approx(
        int(status["VmRSS"].split()[0]) * 1024 / 1e6, rel=0.02
    )
    assert first["process_memory_uss_megabytes"] == pytest.approx(305, abs=10)
    assert "process_memory_uss_megabytes" not in second  # dear, so seldom
    assert first["process_threads_count"] == int(status["Threads"]) == 3
    assert first["process_open_files_count"] == files
    assert first["process_open_files_count"] >= 23


CHILD_BURNS = (
    "import subprocess\nchild = subprocess.Popen([sys.executable, '-c', 'print(1, flush=True)\\nwhile True: pass'],"
    " stdout=subprocess.PIPE)\nchild.stdout.readline()\n"
)


@linux
def test_children_count_apart_and_what_they_did_is_not_counted_again_when_they_have_ended() -> None:
    with child(
        CHILD_BURNS + READY + WAIT + "child.kill()\nchild.wait()\nprint('reaped', flush=True)\n" + WAIT
    ) as parent:
        source = ProcessSource(parent.pid)
        first = source.sample(time.monotonic())
        time.sleep(0.7)
        running = source.sample(time.monotonic())
        tell(parent)
        expect(parent, "reaped")
        time.sleep(0.25)
        ended = source.sample(time.monotonic())
        time.sleep(0.5)
        after = source.sample(time.monotonic())
    assert first["process_children_count"] == 1
    assert running["process_children_cpu_utilization_percentage"] > 10
    assert running["process_cpu_utilization_percentage"] < 10
    assert running["process_children_memory_rss_megabytes"] > 3
    assert running["process_children_threads_count"] == 1
    assert ended["process_children_count"] == 0
    # All that the child had burned was added to its parent in this interval of 0.25 s: it would read as 300 % and more.
    assert ended["process_children_cpu_utilization_percentage"] <= 110
    assert after["process_children_cpu_utilization_percentage"] == 0
    assert after["process_children_memory_rss_megabytes"] == 0


@linux
def test_a_child_that_lived_too_shortly_to_be_seen_counts_all_the_same() -> None:
    burn = "import time; t = time.process_time()\\nwhile time.process_time() - t < 0.4: pass"
    code = (
        f"import subprocess\n{READY}{WAIT}subprocess.run([sys.executable, '-c', '{burn}'])\nprint('done', flush=True)\n"
    )
    keep = "import subprocess\nsubprocess.Popen(['sleep', '60'])\n"
    with child(keep + code + WAIT) as parent:
        source = ProcessSource(parent.pid)
        begun = time.monotonic()
        source.sample(begun)
        tell(parent)
        expect(parent, "done")
        now = time.monotonic()
        values = source.sample(now)
        for process in psutil.Process(parent.pid).children():
            process.kill()
    assert values["process_children_cpu_utilization_percentage"] * (now - begun) / 100 == pytest.approx(0.5, abs=0.15)


@linux
def test_what_an_ended_child_wrote_is_not_the_parents(tmp_path: Path) -> None:
    write = "import sys; f = open(sys.argv[1], 'wb', 0); [f.write(bytes(10**6)) for _ in range(30)]"
    write += "; print(1, flush=True); sys.stdin.readline()"
    code = (
        f"import subprocess\nchild = subprocess.Popen([sys.executable, '-c', {write!r}, sys.argv[1]],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\nchild.stdout.readline()\n"
    )
    end = "child.communicate(b'x')\nprint('reaped', flush=True)\n"
    with child(code + READY + WAIT + end + WAIT, str(tmp_path / "data")) as parent:
        if psutil.Process(parent.pid).children()[0].io_counters().write_bytes < 30e6:
            pytest.skip("the temporary directory is not on a disk")
        source = ProcessSource(parent.pid)
        source.sample(0.0)
        tell(parent)
        expect(parent, "reaped")
        raw = psutil.Process(parent.pid).io_counters().write_bytes
        values = [source.sample(10.0 * number) for number in range(1, 4)]
    assert raw >= 30e6  # the kernel did add it to the parent's
    assert max(one["process_write_megabytes_per_second"] for one in values) < 0.1


@linux
def test_grandchildren_and_children_that_come_later_are_found() -> None:
    spawn = "import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 60 & sleep 60'])\nprint('spawned', flush=True)\n"
    with child(READY + WAIT + spawn + WAIT) as parent:
        source = ProcessSource(parent.pid)
        assert source.sample(0.0)["process_children_count"] == 0
        tell(parent)
        expect(parent, "spawned")
        deadline = time.monotonic() + 5
        while len(psutil.Process(parent.pid).children(recursive=True)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        values = source.sample(10.0)
        for process in psutil.Process(parent.pid).children(recursive=True):
            process.kill()
    assert values["process_children_count"] == 3


@linux
@pytest.mark.parametrize("name", ["python", "a) (b", "x) Z 1 2 3"])
def test_one_read_of_proc_tells_of_a_process_what_psutil_tells(name: str) -> None:
    code = """
import subprocess, threading
from pathlib import Path
Path("/proc/self/comm").write_text(sys.argv[1])
held = bytearray(os.urandom(1 << 20) * 50)
subprocess.run([sys.executable, "-c", "sum(i * i for i in range(2_000_000))"])
forgotten = subprocess.Popen(["true"])
threading.Thread(target=time.sleep, args=[60], daemon=True).start()
while time.process_time() < 0.3: pass
print("ready", flush=True)
sys.stdin.read()
"""
    with child(code, name) as process:
        other = psutil.Process(process.pid)
        assert other.name().startswith(name[:5])
        eventually_still(other)
        stat, theirs = read_stat(other), _from_psutil(other)
        assert (stat.own, stat.reaped) == pytest.approx((theirs.own, theirs.reaped))
        assert stat.own > 0.25  # the program itself has waited for 0.3, by a finer clock
        assert stat.reaped > 0.05
        assert stat.rss == pytest.approx(theirs.rss, abs=2**20)
        assert stat.rss > 50e6
        assert stat.threads == other.num_threads() == 2
        assert stat.faults is not None
        assert stat.faults[0] > 50e6 / 4096 / 600  # huge pages at the most
        assert not stat.zombie
        (zombie,) = other.children()
        assert read_stat(zombie).zombie
        assert _from_psutil(zombie).zombie
    for read in (read_stat, _from_psutil):
        with pytest.raises(psutil.NoSuchProcess):
            read(other)


def eventually_still(process: psutil.Process) -> None:
    """Waits until a process takes no CPU time any more."""
    before = None
    for _ in range(100):
        now = process.cpu_times()
        if now == before:
            return
        before = now
        time.sleep(0.05)


@linux
def test_children_that_the_parent_forgot_are_zombies_and_do_not_count() -> None:
    code = "import subprocess\nchild = subprocess.Popen(['true'])\n"
    code += "os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)\n"
    with child(code + READY + WAIT) as parent:
        source = ProcessSource(parent.pid)
        source.sample(0.0)
        values = source.sample(1.0)
    assert values["process_children_count"] == 0


@linux
def test_a_process_that_has_ended_is_gone_and_so_is_a_zombie() -> None:
    with child(READY) as process:
        process.stdin.close()  # type: ignore[union-attr]
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(SourceGone):
            ProcessSource(process.pid).sample(0.0)
    with pytest.raises(SourceGone, match=f"the process {process.pid} has ended"):
        ProcessSource(process.pid).sample(0.0)


@linux
def test_many_children_are_asked_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import subprocess\nchildren = [subprocess.Popen(['sleep', '60']) for _ in range(12)]\n"
    with child(code + READY + WAIT + "[child.kill() for child in children]\nprint('killed', flush=True)\n") as parent:
        source = ProcessSource(parent.pid)
        samples = [source.sample(float(number)) for number in range(8)]
        tell(parent)
        expect(parent, "killed")
    assert ["process_children_count" in one for one in samples] == [
        True, False, False, True, False, False, True, False
    ]  # fmt: skip
    assert all("process_memory_rss_megabytes" in one for one in samples)


@linux
def test_the_agent_itself_is_not_one_of_the_children() -> None:
    agent = "import os\nfrom tailrace_agent.sampler.process import ProcessSource\n"
    agent += "print(ProcessSource(os.getppid()).sample(0.0)['process_children_count'])"
    trainer = f"import subprocess\n{READY}{WAIT}subprocess.run([sys.executable, '-c', {agent!r}], check=True)\n"
    with child(trainer + WAIT) as parent:
        tell(parent)
        expect(parent, "0.0")


@linux
@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
def test_what_another_users_process_does_not_tell_is_absent() -> None:
    # This process gives its rights away for the time of the measurement, which only a child can do.
    code = (
        "import subprocess\nfrom tailrace_agent.sampler.process import ProcessSource\n"
        "import tailrace_agent.sampler.rates, psutil\n"
        "other = subprocess.Popen(['sleep', '60'])\nown = os.getpid()\n"
        "os.setresuid(65534, 65534, 0)\n"
        "children = ProcessSource(own); first = children.sample(0.0); second = children.sample(10.0)\n"
        "foreign = ProcessSource(other.pid); foreign.sample(0.0); alone = foreign.sample(10.0)\n"
        "os.setresuid(0, 0, 0)\nother.kill()\n"
        "print('ready')\nprint(sorted(second)); print(sorted(first)); print(sorted(alone), flush=True)\n"
    )
    with child(code + WAIT) as process:
        assert process.stdout is not None
        family, first, foreign = (eval(process.stdout.readline()) for _ in range(3))
    assert "process_children_count" in family
    assert "process_children_memory_rss_megabytes" in family
    assert "process_children_cpu_utilization_percentage" in family
    for name in ("open_files_count", "read_megabytes_per_second", "write_megabytes_per_second", "memory_uss_megabytes"):
        assert f"process_children_{name}" not in [*family, *first]
        assert f"process_{name}" not in foreign
    assert "process_memory_rss_megabytes" in foreign
    assert "process_threads_count" in foreign


# ── Energy ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── All together ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Silent:
    def info(self, event: str, **fields: object) -> None:
        pass

    def warning(self, event: str, **fields: object) -> None:
        raise AssertionError((event, fields))


@pytest.fixture
def sampled() -> Callable[..., list[Sample]]:
    def run(**config: Any) -> list[Sample]:
        samples: list[Sample] = []
        settings = MonitorConfig(gpu=False, interval=0.2, **config)
        sampler = Sampler(host_sources(settings), settings, samples.append, Silent())
        sampler.step(time.monotonic())
        time.sleep(0.2)
        sampler.step(time.monotonic())
        sampler.finish(time.monotonic())
        return samples

    return run


def test_mlflows_names_are_all_there(sampled: Callable[..., list[Sample]]) -> None:
    names = set(sampled()[1].values) | set(sampled()[0].values)
    assert {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
        "system/disk_usage_percentage",
        "system/disk_usage_megabytes",
        "system/disk_available_megabytes",
        "system/network_receive_megabytes",
        "system/network_transmit_megabytes",
    } <= names


def test_every_source_can_be_switched_off(sampled: Callable[..., list[Sample]]) -> None:
    switches = ("cpu", "memory", "disk", "network", "process")
    assert sampled(**dict.fromkeys(switches, False)) == []
    beginnings = {"cpu": ("cpu_", "dram_"), "memory": ("system_memory_", "swap_"), "disk": ("disk_",)}
    for switch in switches:
        others = dict.fromkeys((other for other in switches if other != switch), False)
        values = [name for sample in sampled(**others) for name in sample.values]
        assert values
        assert all(name.removeprefix("system/").startswith(beginnings.get(switch, (f"{switch}_",))) for name in values)


def test_every_name_is_in_the_docs(sampled: Callable[..., list[Sample]]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "system-metrics.md").read_text()
    for sample in sampled():
        for name in [*sample.values, *sample.tags]:
            assert f"`{name.removeprefix('system/')}`" in page


def test_the_configuration_is_light_enough_for_the_training_process() -> None:
    code = "import sys, tailrace_agent.sampler.config; print('psutil' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
