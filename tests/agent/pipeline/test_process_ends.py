"""The ends of processes that are nobody's children here."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from helpers.sdk_tools import eventually
from tailrace_agent.pipeline.process_ends import ProcessEnds
from tailrace_agent.runtime.processes import Fate, Process, process


def waiting(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", f"import sys; sys.stdin.read()\n{code}"], stdin=subprocess.PIPE)


@pytest.mark.skipif(sys.platform != "linux", reason="pidfds are Linux's")
def test_several_are_watched_at_once_and_the_order_of_their_ends_is_known() -> None:
    ends, children = ProcessEnds(), [waiting(f"raise SystemExit({code})") for code in (3, 4)]
    found = [process(child.pid) for child in children]
    assert [ends.of(each) for each in found] == [None, None]
    for child, each in zip(reversed(children), reversed(found), strict=True):
        child.stdin.close()  # type: ignore[union-attr]
        eventually(lambda each=each: ends.of(each) is not None)  # type: ignore[misc]
        time.sleep(0.02)
    for child in children:
        child.wait()
    told = [ends.of(each) for each in found]
    assert [each[0] for each in told if each] == [Fate(code=3), Fate(code=4)]
    assert told[0][1] > told[1][1]  # type: ignore[index]


def test_of_one_that_was_gone_before_only_that_is_known() -> None:
    child = waiting("")
    found = process(child.pid)
    child.communicate()
    fate = ProcessEnds().of(found)
    assert fate is not None
    assert fate[0] == Fate()


def test_another_process_of_the_same_id_is_not_the_one_that_is_meant() -> None:
    child = waiting("")
    found = process(child.pid)
    if found.began:
        assert ProcessEnds().of(Process(found.pid, found.began + 1)) is not None
    child.communicate()
