"""The process between a program's output and where it goes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helpers.sdk_tools import eventually
from helpers.tees import TeeRig, kept
from tailrace_agent.console.start import start_tee
from tailrace_agent.console.tee import (
    ANSWER_BEGUN,
    ANSWER_BROKEN,
    ANSWER_DRAINED,
    DONE,
    END,
    PARTS,
    Segments,
    Stream,
    Tee,
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[TeeRig]:
    (tmp_path / "first").mkdir()
    rig = TeeRig(tmp_path / "first")
    yield rig
    rig.end()


def test_what_is_printed_is_handed_on_andkept(rig: TeeRig) -> None:
    os.write(rig.writers[0], b"hello\n")
    assert os.read(rig.readers[0], 100) == b"hello\n"
    assert kept(rig.directory) == b"hello\n"
    os.close(rig.writers[0])
    assert os.read(rig.readers[0], 100) == b""
    assert os.read(rig.tee.answers, 10) == ANSWER_DRAINED
    assert (rig.directory / DONE).exists()
    os.close(rig.tee.control)
    assert os.read(rig.tee.answers, 10) == b"", "nobody comes any more"


def test_one_serves_run_after_run_and_keeps_of_each_what_is_its(rig: TeeRig, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    os.write(rig.writers[0], b"one\n")
    rig.tee.say(END)
    assert os.read(rig.tee.answers, 10) == ANSWER_DRAINED
    rig.tee.say(END)  # nobody is answered twice
    (taken, printed), (seen, on) = os.pipe(), os.pipe()
    rig.tee.begin(tmp_path / "second", 1 << 20, [(taken, on)])
    os.write(rig.writers[0], b"a child of the first\n")
    os.write(printed, b"two\n")
    for fd in (taken, on, printed):
        os.close(fd)
    assert os.read(seen, 100) == b"two\n"
    assert os.read(seen, 100) == b"", "its reader waits for nobody"
    assert os.read(rig.tee.answers, 10) == ANSWER_DRAINED
    found = b""
    while len(found) < 25:
        found += os.read(rig.readers[0], 100)
    assert found == b"one\na child of the first\n"
    assert kept(rig.directory) == b"one\n"
    assert kept(tmp_path / "second") == b"two\n"
    assert (tmp_path / "second" / DONE).exists()
    os.close(seen)


def test_it_has_nothing_open_of_a_run_that_is_over(tmp_path: Path) -> None:
    segments = Segments(str(tmp_path), 1 << 20)
    before = psutil.Process().num_fds()
    segments.keep(b"text")
    segments.done()
    assert psutil.Process().num_fds() == before, "after a thousand runs nothing could be opened, or printed, any more"


def test_a_reader_that_a_child_of_an_earlier_run_has_lost_is_none_of_the_next_ones(rig: TeeRig, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    rig.tee.say(END)
    assert os.read(rig.tee.answers, 10) == ANSWER_DRAINED
    (taken, printed), (seen, on) = os.pipe(), os.pipe()
    rig.tee.begin(tmp_path / "second", 1 << 20, [(taken, on)])
    os.close(rig.readers[0])
    os.write(rig.writers[0], b"a child of the first\n")
    os.write(printed, b"two\n")
    assert os.read(seen, 100) == b"two\n"
    rig.tee.say(END)
    assert os.read(rig.tee.answers, 10) == ANSWER_DRAINED
    for fd in (taken, on, printed, seen):
        os.close(fd)


def test_who_asks_is_answered_when_all_is_handed_on_and_children_are_served_until_they_go(rig: TeeRig) -> None:
    os.write(rig.writers[0], b"x" * 30_000)
    rig.tee.say(END)
    assert os.read(rig.tee.answers, 10) == ANSWER_DRAINED
    assert len(os.read(rig.readers[0], 65536)) == 30_000
    os.write(rig.writers[0], b"a child\n")
    assert os.read(rig.readers[0], 100) == b"a child\n"
    assert kept(rig.directory) == b"x" * 30_000, "it is after the end"


@pytest.mark.slow
def test_who_asks_is_not_answered_while_a_reader_keeps_what_was_printed_waiting(tmp_path: Path) -> None:
    rig = TeeRig(tmp_path, streams=2)
    try:
        os.write(rig.writers[0], b"x" * 150_000)
        rig.tee.say(END)
        assert not select.select([rig.tee.answers], [], [], 3.0)[0], "what is printed elsewhere would overtake the rest"
        read = 0
        while read < 150_000:
            read += len(os.read(rig.readers[0], 65536))
        assert os.read(rig.tee.answers, 10) == ANSWER_DRAINED
    finally:
        rig.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_it_is_deaf_to_what_ends_a_program(rig: TeeRig, number: int) -> None:
    os.write(rig.writers[0], b"a")
    assert os.read(rig.readers[0], 10) == b"a"
    os.killpg(rig.tee.group, number)
    os.write(rig.writers[0], b"b")
    assert os.read(rig.readers[0], 10) == b"b"


def test_who_prints_for_a_reader_that_is_gone_gets_a_broken_pipe(rig: TeeRig) -> None:
    os.close(rig.readers[0])
    os.write(rig.writers[0], b"a")
    assert os.read(rig.tee.answers, 10).startswith(ANSWER_BROKEN)
    with pytest.raises(BrokenPipeError):
        eventually(lambda: os.write(rig.writers[0], b"b") == 0)


def test_of_two_streams_one_that_is_stuck_does_not_hold_up_the_other(tmp_path: Path) -> None:
    rig = TeeRig(tmp_path, 2)
    os.set_blocking(rig.writers[0], False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(rig.writers[0], b"x" * 65536)
    os.write(rig.writers[1], b"hello\n")
    assert os.read(rig.readers[1], 100) == b"hello\n"
    rig.end()


def test_nothing_that_happens_to_what_is_kept_stops_it(rig: TeeRig) -> None:
    os.write(rig.writers[0], b"a")
    assert os.read(rig.readers[0], 10) == b"a"
    for path in rig.directory.iterdir():
        path.unlink()
    rig.directory.rmdir()
    for _ in range(40):
        os.write(rig.writers[0], b"b" * 60_000)
        taken = 0
        while taken < 60_000:
            taken += len(os.read(rig.readers[0], 65536))


def test_a_hundred_megabytes_pass_and_the_middle_is_not_kept(rig: TeeRig) -> None:
    written = 100 * (1 << 20)

    def write() -> None:
        for _ in range(100):
            rest = memoryview(b"y" * (1 << 20))
            while rest:
                rest = rest[os.write(rig.writers[0], rest) :]
        os.close(rig.writers[0])

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while data := os.read(rig.readers[0], 1 << 20):
        seen += len(data)
    writer.join()
    assert seen == written
    assert len([path for path in rig.directory.iterdir() if path.name.isdigit()]) <= PARTS
    assert len(kept(rig.directory)) <= 1.2 * (1 << 20) + 65536 * PARTS
    *_, last = sorted(path for path in rig.directory.iterdir() if path.name.isdigit())
    assert int(last.name) + last.stat().st_size == written


def test_a_terminal_gets_its_size_and_its_program_is_told(tmp_path: Path) -> None:
    outer_master, outer = pty.openpty()
    inner_master, inner = pty.openpty()
    fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    tee = start_tee(tmp_path, 1 << 20, [(inner_master, outer)])
    told = threading.Event()
    before = signal.signal(signal.SIGWINCH, lambda *_: told.set())
    try:

        def size() -> tuple[int, ...]:
            return struct.unpack("HHHH", fcntl.ioctl(inner, termios.TIOCGWINSZ, bytes(8)))[:2]

        eventually(lambda: size() == (33, 99))
        fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 111, 0, 0))
        eventually(lambda: size() == (44, 111))
        eventually(told.is_set)
    finally:
        signal.signal(signal.SIGWINCH, before)
        for fd in (outer_master, outer, inner_master, inner, *tee[:2]):
            os.close(fd)


def test_what_a_pty_makes_of_ends_of_lines_is_undone_and_nothing_else(tmp_path: Path) -> None:
    (seen, on), (master, slave) = os.pipe(), pty.openpty()
    tee = start_tee(tmp_path, 1 << 20, [(master, on)])
    written = b"one\ntwo\r\nthree\n\n\r50%\r60%\r\r\n\n\r"
    try:
        for number in range(len(written)):
            os.write(slave, written[number : number + 1])
        found = b""
        while len(found) < len(written):
            found += os.read(seen, 100)
        assert found == written
        modes = termios.tcgetattr(slave)
        modes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        os.write(slave, b"\r\n\n")
        assert os.read(seen, 100) == b"\r\n\n"
        eventually(lambda: kept(tmp_path) == written + b"\r\n\n")
    finally:
        for fd in (seen, on, master, slave, *tee[:2]):
            os.close(fd)


def test_segments_go_on_where_a_tee_was_killed(tmp_path: Path) -> None:
    first = Segments(str(tmp_path), 1600)
    first.keep(b"a" * 150)
    first.done()
    second = Segments(str(tmp_path), 1600)
    second.keep(b"b" * 10)
    assert not (tmp_path / DONE).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{0:020d}", f"{150:020d}"]


def test_a_thread_can_do_its_work(tmp_path: Path) -> None:
    (taken, printed), (seen, on) = os.pipe(), os.pipe()
    control, answers = os.pipe(), os.pipe()
    tee = Tee([Stream(taken, on)], Segments(str(tmp_path), 1 << 20), control[0], answers[1])
    thread = threading.Thread(target=tee.run)
    thread.start()
    os.write(printed, b"hello\n")
    assert os.read(seen, 100) == b"hello\n"
    os.close(printed)
    thread.join(30)
    assert not thread.is_alive()
    assert os.read(answers[0], 10) == ANSWER_BEGUN + ANSWER_DRAINED
    for fd in (*control, *answers, seen):
        os.close(fd)


def test_what_children_print_long_after_the_program_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    (taken, printed), (seen, on) = os.pipe(), os.pipe()
    control, answers = os.pipe(), os.pipe()
    tee = Tee([Stream(taken, on)], Segments(str(tmp_path), 1 << 20), control[0], answers[1])
    thread = threading.Thread(target=tee.run)
    thread.start()
    os.close(control[1])  # the program is gone
    os.write(printed, b"soon\n")
    assert os.read(seen, 100) == b"soon\n"
    now = 1060.0
    threading.Event().wait(1.5)  # it looks every half second
    os.write(printed, b"late\n")
    assert os.read(seen, 100) == b"late\n"
    os.close(printed)
    thread.join(30)
    assert kept(tmp_path) == b"soon\n"
    for fd in (control[0], *answers, seen):
        os.close(fd)


def test_what_a_full_disk_does_not_take_has_nothing_make_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = Segments(str(tmp_path), PARTS * 100)
    printed = b"".join(b"%04d %s\n" % (number, b"x" * 44) for number in range(PARTS * 100 // 50))
    for start in range(0, len(printed), 50):
        segments.keep(printed[start : start + 50])
    assert kept(tmp_path) == printed

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for _ in range(3 * PARTS):
            segments.keep(b"lost\n")
    assert kept(tmp_path) == printed
    segments.keep(b"kept again\n")
    assert kept(tmp_path).endswith(b"kept again\n")
    assert len(list(tmp_path.iterdir())) == PARTS


def test_what_a_disk_takes_a_part_of_is_kept_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segments, write = Segments(str(tmp_path), 1 << 20), os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
        segments.keep(b"one line\n")
    segments.keep(b"another\n")
    assert kept(tmp_path) == b"one line\nanother\n"
