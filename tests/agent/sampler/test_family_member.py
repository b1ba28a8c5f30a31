"""One read of `/proc` tells of a process what psutil tells."""

from __future__ import annotations

import time

import psutil
import pytest

from helpers.loads import child, linux
from tailrace_agent.sampler.family_member import _from_psutil, read_stat


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
