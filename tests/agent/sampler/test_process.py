"""The training process and its children: against `/proc`, and against loads whose size is known."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from helpers.loads import BURN, READY, WAIT, child, cpu_seconds, expect, linux, tell
from tailrace_agent.sampler.process import ProcessSource
from tailrace_agent.sampler.source import SourceGone


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
