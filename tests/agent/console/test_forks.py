"""Tees that are forked from one that is there: `tailrace_agent.console.forks`."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.sdk_tools import eventually
from helpers.tees import TeeRig, kept, process_of
from tailrace_agent.console import forks
from tailrace_agent.console.forks import listening
from tailrace_agent.console.tee import END

Begin = Callable[[str], TeeRig]


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    return tmp_path / "tees"


@pytest.fixture
def begin(tmp_path: Path, beside: Path) -> Iterator[Begin]:
    begun: list[TeeRig] = []

    def another(name: str) -> TeeRig:
        (tmp_path / name).mkdir()
        begun.append(TeeRig(tmp_path / name, beside=beside))
        return begun[-1]

    yield another
    for rig in begun:
        rig.end()


def _hands_on(rig: TeeRig, text: bytes) -> bool:
    os.write(rig.writers[0], text)
    return os.read(rig.readers[0], 100) == text and kept(rig.directory).endswith(text)


def test_a_second_tee_is_a_fork_of_the_first_and_neither_has_the_other_s_descriptors(begin: Begin) -> None:
    first, second = begin("0"), begin("1")
    assert process_of(second.tee).ppid() == process_of(first.tee).pid
    assert _hands_on(first, b"one")
    assert _hands_on(second, b"two")
    os.close(second.writers[0])
    assert os.read(second.readers[0], 1) == b"", "the first would keep a reader of the second waiting"
    second.writers.clear()
    assert _hands_on(first, b"three")
    assert process_of(second.tee).num_fds() < 10


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are bound to processors on Linux")
def test_a_fork_runs_on_the_processors_of_its_own_program(begin: Begin) -> None:
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("there is one processor")
    try:
        os.sched_setaffinity(0, {min(before)})
        first = begin("0")
        os.sched_setaffinity(0, {max(before)})
        second = begin("1")
    finally:
        os.sched_setaffinity(0, before)
    assert process_of(second.tee).ppid() == process_of(first.tee).pid
    assert os.sched_getaffinity(second.tee.group) == {max(before)}


def test_of_two_that_begin_at_the_same_moment_the_later_is_a_fork_of_the_other(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    rigs = list[TeeRig]()

    def listening_later(place: str) -> socket.socket | None:
        monkeypatch.setattr(forks, "listening", listening)
        rigs.append(begin("0"))  # between the look for a socket and the making of one
        return listening(place)

    monkeypatch.setattr(forks, "listening", listening_later)
    second = begin("1")
    assert process_of(second.tee).ppid() == process_of(rigs[0].tee).pid
    assert _hands_on(second, b"two")


def test_a_fork_takes_a_fraction_of_the_memory(begin: Begin) -> None:
    alone = TeeRig(begin("0").directory)
    own = process_of(alone.tee).memory_full_info().uss
    alone.end()
    assert process_of(begin("1").tee).memory_full_info().uss < own / 2


def test_a_fork_goes_on_without_the_tee_that_it_is_from_and_another_one_is_asked_then(begin: Begin) -> None:
    first, second = begin("0"), begin("1")
    os.killpg(first.tee.group, signal.SIGKILL)
    assert eventually(lambda: os.read(first.tee.answers, 1) == b"")
    third = begin("2")
    assert _hands_on(second, b"two")
    assert _hands_on(third, b"three")
    fourth = begin("3")
    assert process_of(fourth.tee).ppid() == process_of(third.tee).pid


def test_a_tee_that_does_not_answer_is_not_waited_for_and_its_late_fork_takes_nothing(begin: Begin) -> None:
    first = begin("0")
    os.killpg(first.tee.group, signal.SIGSTOP)
    second = begin("1")
    os.killpg(first.tee.group, signal.SIGCONT)
    forks = process_of(first.tee).children
    eventually(lambda: not forks())
    assert _hands_on(second, b"two")
    assert _hands_on(first, b"one")
    assert process_of(begin("2").tee).ppid() == process_of(first.tee).pid, "it answers again"


def test_the_reader_of_another_rank_comes_to_its_end_while_the_first_tee_is_stopped(begin: Begin) -> None:
    first = begin("0")
    os.killpg(first.tee.group, signal.SIGSTOP)
    second = begin("1")
    os.close(second.writers.pop())
    ended, _, _ = select.select(second.readers, (), (), 10)
    os.killpg(first.tee.group, signal.SIGCONT)
    assert ended
    assert os.read(second.readers[0], 1) == b""


def test_a_tee_that_leaves_while_it_is_asked_ends_no_program_to_which_sigpipe_is_deadly(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "tees"))
    listener.listen()

    def leave() -> None:
        caller, _ = listener.accept()
        caller.send(b"1")
        caller.close()

    thread = threading.Thread(target=leave)
    thread.start()
    asks = (
        "import os, signal, sys, time\n"
        "from tailrace_agent.console import forks\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "connected = forks._connected\n"
        "def slow(place):\n"
        "    caller = connected(place)\n"
        "    caller.recv(1, forks._socket.MSG_PEEK)\n"
        "    time.sleep(0.2)\n"
        "    return caller\n"
        "forks._connected = slow\n"
        "try:\n"
        "    forks.ask(sys.argv[1], ['word'], [0])\n"
        "except OSError:\n"
        "    print('another one is started')\n"
    )
    done = subprocess.run([sys.executable, "-c", asks, tmp_path / "tees"], capture_output=True, text=True, check=True)
    thread.join()
    listener.close()
    assert done.stdout == "another one is started\n"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of others are set on Linux")
def test_a_tee_without_a_descriptor_left_is_asked_no_more_and_goes_on(begin: Begin) -> None:
    first = begin("0")
    process = process_of(first.tee)
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds(), before[1]))
    fds = process.num_fds()
    second = begin("1")
    assert eventually(lambda: process.num_fds() < fds), "where it waited it would be woken again and again"
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
    assert _hands_on(first, b"one")
    assert _hands_on(second, b"two")
    assert process_of(begin("2").tee).ppid() == process_of(second.tee).pid, "the next one is asked"


def test_a_fork_ends_when_its_program_has(begin: Begin) -> None:
    begin("0")
    second = begin("1")
    process = process_of(second.tee)
    os.write(second.tee.control, END)
    second.end()
    assert eventually(lambda: not process.is_running())


def test_without_room_for_the_socket_each_has_a_tee_of_its_own(tmp_path: Path) -> None:
    beside = tmp_path / ("long" * 40)
    rigs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        rigs.append(TeeRig(tmp_path / name, beside=beside))
    assert all(_hands_on(rig, b"text") for rig in rigs)
    assert process_of(rigs[1].tee).ppid() != process_of(rigs[0].tee).pid
    for rig in rigs:
        rig.end()


def test_what_asks_for_nothing_is_let_go(begin: Begin, beside: Path) -> None:
    first = begin("0")
    for said in (b"", b"nonsense"):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(beside))
            if said:
                caller.send(said)
    assert _hands_on(first, b"one")
    assert process_of(begin("1").tee).ppid() == process_of(first.tee).pid


def test_a_socket_that_answers_is_not_replaced(beside: Path) -> None:
    first = listening(str(beside))
    assert first is not None
    assert listening(str(beside)) is None
    first.close()
    second = listening(str(beside))
    assert second is not None
    second.close()
    assert [path.name for path in beside.parent.iterdir()] == ["tees"]
