"""The terminal behind a pty: whose keys go where, and which modes it has."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.printing import Printing, kept_bytes
from tailrace_agent.console.terminal import Terminal

Starts = Callable[[str], Printing]


class TerminalRig:
    """A terminal, the pty that stands for it, and a clock; the program is always in the foreground."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keyboard, self.screen = pty.openpty()
        self.master, self.slave = pty.openpty()
        self.now, self.foreground = 1000.0, True
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(Terminal, "_look_at_foreground", lambda _: self.foreground)
        self.terminal = Terminal(self.master, self.screen, os.getpid())
        self.before = termios.tcgetattr(self.screen)

    def single_keys(self, *, echo: bool = False) -> None:
        """A program wants them at the pty."""
        modes = termios.tcgetattr(self.slave)
        modes[3] &= ~(termios.ICANON | (0 if echo else termios.ECHO))
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)

    def lines(self) -> None:
        """It is content with lines again."""
        termios.tcsetattr(self.slave, termios.TCSANOW, self.before)

    def work(self, seconds: float) -> None:
        """The tee looks at it every now and then."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.01
            self.terminal.look()

    def press(self, keys: bytes) -> None:
        """Somebody types."""
        os.write(self.keyboard, keys)
        assert select.select([self.screen], [], [], 30)[0]  # the kernel hands it over a moment later

    @property
    def read(self) -> bytes:
        """What a program reads at the pty."""
        return os.read(self.slave, 100) if select.select([self.slave], [], [], 0.1)[0] else b""

    def end(self) -> None:
        self.terminal.close()
        for fd in (self.keyboard, self.screen, self.master, self.slave):
            os.close(fd)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[TerminalRig]:
    rig = TerminalRig(monkeypatch)
    yield rig
    rig.end()


def test_a_key_that_nobody_else_takes_reaches_who_reads_the_pty_and_the_next_ones_sooner(rig: TerminalRig) -> None:
    rig.single_keys()
    rig.work(0.1)
    rig.press(b"\x1b[A")
    rig.work(0.5)
    assert rig.read == b"", "another may read at the terminal"
    rig.work(0.7)
    assert rig.read == b"\x1b[A"
    rig.work(0.1)
    rig.press(b"q")
    rig.work(0.1)
    assert rig.read == b"q"


def test_while_lines_are_wanted_no_key_is_touched_and_what_was_typed_ahead_stays(rig: TerminalRig) -> None:
    rig.press(b"a line\n")
    rig.work(10)
    assert rig.read == b""
    assert os.read(rig.screen, 100) == b"a line\n"


def test_keys_that_are_read_at_the_terminal_stay_there_even_while_their_reader_is_busy(rig: TerminalRig) -> None:
    rig.single_keys()
    rig.work(0.1)
    rig.press(b"abc")
    rig.work(0.9)
    assert os.read(rig.screen, 1) == b"a"
    rig.work(2.0)
    assert os.read(rig.screen, 2) == b"bc"
    rig.press(b"d")
    rig.work(4.0)
    assert os.read(rig.screen, 1) == b"d"
    assert rig.read == b""


def test_who_has_the_keys_is_found_out_anew_when_the_modes_change(rig: TerminalRig) -> None:
    rig.single_keys()
    rig.work(0.1)
    rig.press(b"a")
    rig.work(0.1)
    assert os.read(rig.screen, 1) == b"a"
    rig.work(0.1)
    rig.lines()
    rig.work(0.1)
    rig.single_keys()
    rig.work(0.1)
    rig.press(b"b")
    rig.work(1.5)
    assert rig.read == b"b"


def test_a_key_that_nobody_reads_at_the_pty_either_is_the_last_that_is_taken_soon(rig: TerminalRig) -> None:
    rig.single_keys()
    rig.work(0.1)
    rig.press(b"a")
    rig.work(1.02)
    assert select.select([rig.slave], [], [], 30)[0]
    rig.work(1.5)
    rig.press(b"b")
    rig.work(3.0)
    assert os.read(rig.screen, 10) == b"b"


def test_without_the_foreground_no_key_is_touched(rig: TerminalRig) -> None:
    rig.foreground = False
    rig.single_keys()
    rig.work(0.1)
    assert termios.tcgetattr(rig.screen) == rig.before
    assert rig.terminal.keys == -1
    rig.foreground = True
    rig.work(0.1)
    assert not termios.tcgetattr(rig.screen)[3] & termios.ICANON
    rig.foreground = False
    rig.press(b"a")
    rig.work(5.0)
    assert rig.read == b""


def test_the_terminal_has_the_modes_of_the_pty_while_single_keys_are_wanted(rig: TerminalRig) -> None:
    rig.single_keys(echo=True)
    rig.work(0.1)
    given = termios.tcgetattr(rig.screen)[3]
    assert not given & termios.ICANON
    assert not given & termios.ECHO, "the pty has it, of the keys that it is given"
    rig.lines()
    rig.work(0.1)
    assert termios.tcgetattr(rig.screen) == rig.before


def test_modes_that_somebody_else_has_set_meanwhile_stay(rig: TerminalRig) -> None:
    rig.single_keys()
    rig.work(0.1)
    theirs = termios.tcgetattr(rig.screen)
    theirs[0] &= ~termios.IXON
    termios.tcsetattr(rig.screen, termios.TCSANOW, theirs)
    rig.lines()
    rig.work(0.1)
    assert not termios.tcgetattr(rig.screen)[0] & termios.IXON


def test_a_terminal_that_is_closed_is_left_alone(rig: TerminalRig) -> None:
    rig.single_keys()
    rig.work(0.1)
    os.close(rig.keyboard)
    rig.work(0.1)
    assert rig.terminal.keys == -1
    assert not rig.terminal.wants_keys
    rig.keyboard = os.open(os.devnull, os.O_RDONLY)


def test_what_the_pty_does_with_lines_is_known(rig: TerminalRig) -> None:
    rig.terminal.look()
    assert rig.terminal.adds_returns
    modes = termios.tcgetattr(rig.slave)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(rig.slave, termios.TCSANOW, modes)
    rig.terminal.look()
    assert not rig.terminal.adds_returns


# ── Whole programs, with somebody at their terminal ──────────────────────────────────────────────────────────────────


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    """Starts programs, which are gone with the test."""
    started: list[Printing] = []
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LESSHISTFILE", "-")
    monkeypatch.delenv("LESS", raising=False)

    def start(code: str, **how: Any) -> Printing:
        started.append(Printing(tmp_path, code, keys=True, **how))
        return started[-1]

    yield start
    for program in started:
        program.end()


PAGES = """
capture = begin()
Path("book").write_text("".join(f"line {number}\\n" for number in range(200)))
subprocess.run([*%r, "book"])
print("you said", input("and now? "))
capture.end(30)
print("modes", termios.tcgetattr(0) == before)
"""
PAGES = "before = termios.tcgetattr(0)\n" + PAGES


@pytest.mark.slow
@pytest.mark.parametrize("pager", ["less", "more"])
def test_a_pager_gets_its_keys_and_the_program_its_lines_after_it(starts: Starts, pager: str) -> None:
    if shutil.which(pager) is None:
        pytest.skip(f"there is no {pager} on this machine")
    program = starts(PAGES % [pager])
    program.until(b"line 38\r\n")
    program.press(b" ")
    program.until(b"line 70\r\n")
    program.press(b" ")
    program.until(b"line 105\r\n")
    program.press(b"q")
    program.until(b"and now? ")
    program.press(b"done\n")
    seen = program.rest()
    assert b"you said done\r\n" in seen
    assert b"modes True\r\n" in seen
    assert b"you said done\n" in kept_bytes(program.kept)


@pytest.mark.slow
def test_a_pager_that_a_pipe_feeds_gets_its_keys_too(starts: Starts) -> None:
    if shutil.which("less") is None:
        pytest.skip("there is no less on this machine")
    program = starts("""
    capture = begin()
    subprocess.run("seq 1 200 | less", shell=True)
    print("over")
    capture.end(30)
    """)
    program.until(b"38\r\n39\r\n")
    program.press(b"G")
    program.until(b"199\r\n200\r\n")
    program.press(b"q")
    assert b"over\r\n" in program.rest()


CURSES = """
import curses
capture = begin()

def busy(screen):
    found = b""
    screen.addstr(0, 0, "ready")
    screen.refresh()
    while not found.endswith(b"q"):
        found += bytes([screen.getch()])
        time.sleep(0.4)
    return found

found = curses.wrapper(busy)
print("got", found)
capture.end(30)
"""


@pytest.mark.slow
def test_a_program_of_whole_screens_loses_no_key_however_busy_it_is(starts: Starts) -> None:
    pytest.importorskip("curses")
    program = starts(CURSES)
    program.until(b"ready")
    for keys in (b"ab", b"c", b"\x1b[A", b"def"):
        program.press(keys)
        time.sleep(0.1)
    program.press(b"q")
    assert b"got b'abc\\x1b[Adefq'\r\n" in program.rest()


def test_what_is_typed_ahead_is_there_for_who_reads_it_next(starts: Starts) -> None:
    program = starts("""
    capture = begin()
    print("begun")
    time.sleep(1.0)
    print("lines", [input(), input()])
    capture.end(30)
    """)
    program.until(b"begun")
    program.press(b"one\ntwo\n")
    assert b"lines ['one', 'two']\r\n" in program.rest()


def test_a_program_in_the_background_takes_no_key_from_its_shell(starts: Starts) -> None:
    """As after `python train.py &`: the terminal is the shell's, whatever modes are set at the program's output."""
    program = starts("""
    import tty
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        capture = begin()
        tty.setcbreak(1)
        print("begun")
        time.sleep(2.5)
        capture.end(30)
        os._exit(0)
    time.sleep(1.5)
    print("the shell has read", input())
    os.waitpid(child, 0)
    """)
    program.until(b"begun")
    program.press(b"mine\n")
    assert b"the shell has read mine\r\n" in program.rest()


@pytest.mark.slow
def test_a_window_may_change_its_size_below_a_pager(starts: Starts) -> None:
    if shutil.which("less") is None:
        pytest.skip("there is no less on this machine")
    program = starts(PAGES % ["less"])
    program.until(b"line 38\r\n")
    fcntl.ioctl(program.master, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 50, 0, 0))
    program.until(b"\x1b[2J")
    program.press(b"G")
    assert b"line 180\r\n" not in program.until(b"line 199\r\n")
    program.press(b"q")
    program.until(b"and now? ")
    program.press(b"done\n")
    program.rest()
