"""Which process is meant, and how one ended before its parent has asked for that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tailrace_agent.runtime.processes import Fate, Process, fate_of, is_alive, process

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def until_gone(found: Process) -> None:
    deadline = time.monotonic() + 10
    while is_alive(found):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_this_process_is_alive_and_another_one_of_its_id_is_not() -> None:
    here = process(os.getpid())
    assert is_alive(here)
    if here.began:
        assert not is_alive(Process(here.pid, here.began + 1))
    assert not is_alive(Process(0))


@linux
@pytest.mark.parametrize(
    ("code", "fate"),
    [
        ("raise SystemExit(3)", Fate(code=3)),
        ("pass", Fate(code=0)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Fate(signal=signal.SIGKILL)),
    ],
)
def test_how_a_process_ended_is_seen_before_its_parent_asks(code: str, fate: Fate) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import sys; sys.stdin.read()\n{code}"], stdin=subprocess.PIPE)
    found = process(child.pid)
    child.stdin.close()  # type: ignore[union-attr]
    until_gone(found)
    assert fate_of(found) == fate
    child.wait()
    assert fate_of(found) == Fate()


KERNEL = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))


@linux
@pytest.mark.skipif(KERNEL < (6, 15), reason="Linux 6.15 is the first to tell it")
@pytest.mark.parametrize(
    ("code", "fate"),
    [
        ("raise SystemExit(3)", Fate(code=3)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Fate(signal=signal.SIGKILL)),
    ],
)
def test_how_a_process_ended_is_seen_by_its_pidfd_after_its_parent_has_asked(code: str, fate: Fate) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import sys; sys.stdin.read()\n{code}"], stdin=subprocess.PIPE)
    found = process(child.pid)
    pidfd = os.pidfd_open(child.pid)
    try:
        assert fate_of(found, pidfd) == Fate()
        child.communicate()
        assert fate_of(found, pidfd) == fate
        assert fate_of(found) == Fate()
    finally:
        os.close(pidfd)


def test_a_fate_is_told_in_words() -> None:
    assert Fate(signal=64).text == "was killed by SIGRTMAX"
    assert (Fate(code=0).bad, Fate(code=1).bad, Fate(signal=9).bad, Fate().bad) == (False, True, True, False)
