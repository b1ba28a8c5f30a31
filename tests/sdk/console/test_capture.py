"""What a program prints, on its way through a tee: nothing of it is lost or changed, whoever is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.printing import CAPTURED, Printing, kept_bytes, tee_groups
from helpers.sdk_tools import eventually
from tailrace._console import capture as capture_module
from tailrace._console.capture import Capture, active

Starts = Callable[..., Printing]


@pytest.fixture
def starts(tmp_path: Path) -> Iterator[Starts]:
    """Starts programs, which are gone with the test."""
    started: list[Printing] = []

    def start(code: str, **how: Any) -> Printing:
        started.append(Printing(tmp_path, code, **how))
        return started[-1]

    yield start
    for program in started:
        program.end()


ALL_KINDS = """
import ctypes
capture = begin()
print("from Python")
os.write(1, b"by a descriptor\\n")
libc = ctypes.CDLL(None)
libc.puts(b"from C")
libc.fflush(None)
subprocess.run(["sh", "-c", "echo from a child; echo its error >&2"])
thread = threading.Thread(target=print, args=("from a thread",))
thread.start()
thread.join()
pid = os.fork()
if not pid:
    print("from a fork", flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print("an error", file=sys.stderr)
print("the rest", end="")
capture.end(30)
print(" and what comes after it")
"""
SAID = b"from Python\nby a descriptor\nfrom C\nfrom a child\nits error\nfrom a thread\nfrom a fork\nan error\nthe rest"


def test_whatever_prints_is_kept_and_goes_where_it_went_in_its_order(starts: Starts) -> None:
    program = starts(ALL_KINDS)
    assert program.rest() == SAID + b" and what comes after it\n"
    assert program.process.returncode == 0
    assert kept_bytes(program.kept) == SAID


def test_two_places_stay_two(starts: Starts) -> None:
    program = starts(ALL_KINDS, together=False)
    out, error = program.process.communicate(timeout=60)
    assert error == b"its error\nan error\n"
    assert out == SAID.replace(b"its error\n", b"").replace(b"an error\n", b"") + b" and what comes after it\n"
    assert sorted(kept_bytes(program.kept)) == sorted(SAID), "in which order is the kernel's to say"


def test_a_terminal_stays_one_of_its_size_and_what_is_drawn_on_it_comes_as_it_is(starts: Starts) -> None:
    program = starts(
        """
        capture = begin()
        print(sys.stdout.isatty(), sys.stderr.isatty(), tuple(os.get_terminal_size()))
        sys.stdout.write("\\x1b[31mred\\x1b[0m\\t10%\\r20%\\n")
        capture.end(30)
        print(os.isatty(1))
        """,
        terminal=True,
    )
    assert program.rest() == b"True True (120, 40)\r\n\x1b[31mred\x1b[0m\t10%\r20%\r\nTrue\r\n", (
        "one CR of the terminal"
    )
    assert kept_bytes(program.kept) == b"True True (120, 40)\n\x1b[31mred\x1b[0m\t10%\r20%\n"


def test_tqdm_draws_its_bar(starts: Starts) -> None:
    program = starts(
        """
        from tqdm import tqdm
        capture = begin()
        for _ in tqdm(range(5), mininterval=0, desc="epoch"):
            pass
        capture.end(30)
        """,
        terminal=True,
    )
    seen = program.rest()
    assert seen.count(b"\r") > 4
    assert b"epoch: 100%" in seen
    assert seen.replace(b"\r\n", b"\n") == kept_bytes(program.kept)


COUNTS = """
capture = begin()
said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in range(10_000_000):
    print("line", number)
    os.write(said, b"%d\\n" % number)
"""


@pytest.mark.parametrize("terminal", [False, True], ids=["a pipe", "a terminal"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_line_that_was_printed_before_a_kill_is_there(
    starts: Starts, tmp_path: Path, seed: int, terminal: bool
) -> None:
    program = starts(COUNTS, terminal=terminal)
    assert program.line().strip() == b"line 0"
    seen = b"line 0\n"
    until = time.monotonic() + random.Random(seed).random() * 0.3
    while time.monotonic() < until:
        seen += program.read()
    program.process.kill()
    seen += program.rest()
    last = int((tmp_path / "said").read_text().splitlines()[-1])
    # The newest may have been printed without being noted, and one may have been cut in two.
    numbers = [line for line in seen.replace(b"\r\n", b"\n").split(b"\n") if line]
    assert numbers[: last + 1] == [b"line %d" % number for number in range(last + 1)]
    eventually((program.kept / "done").exists)
    assert kept_bytes(program.kept) == seen.replace(b"\r\n", b"\n"), "nothing is lost on its way"


def test_a_tee_that_is_killed_takes_nothing_along(starts: Starts) -> None:
    program = starts(
        """
        capture = begin()
        for number in range(2000):
            print("line", number)
            time.sleep(0.001)
        capture.end(30)
        print("over")
        """
    )
    assert program.line() == b"line 0\n"
    (group,) = tee_groups(program.kept)
    os.killpg(group, signal.SIGKILL)
    seen = program.rest()
    assert seen.endswith(b"line 1999\nover\n")
    assert program.process.returncode == 0
    missing = {b"line %d" % number for number in range(1, 2000)} - set(seen.split(b"\n"))
    assert len(missing) < 10, "what the tee had in its hands"
    assert kept_bytes(program.kept).split(b"\n") == [*(b"line %d" % number for number in range(2000)), b""]


@pytest.mark.parametrize("terminal", [False, True], ids=["a pipe", "a terminal"])
def test_where_no_tee_lives_a_thread_does_its_work(starts: Starts, terminal: bool) -> None:
    program = starts(
        """
        capture = begin()
        print("begun")
        for number in range(200):
            print("line", number)
            time.sleep(0.02)
        subprocess.run(["sh", "-c", "echo a child"])
        capture.end(30)
        print("over")
        """,
        terminal=terminal,
    )
    assert program.line().strip() == b"begun"
    for _ in range(5):
        for group in tee_groups(program.kept):
            os.killpg(group, signal.SIGKILL)
        program.line()
        time.sleep(0.1)
    seen = program.rest().replace(b"\r\n", b"\n")
    assert seen.endswith(b"line 199\na child\nover\n")
    assert program.process.returncode == 0
    assert kept_bytes(program.kept).endswith(b"line 199\na child\n")


def test_a_child_that_outlives_the_run_goes_on_printing_to_where_it_did(starts: Starts) -> None:
    program = starts(
        """
        capture = begin()
        print("begun")
        subprocess.Popen(["sh", "-c", "sleep 1; echo late; echo later"])
        capture.end(30)
        print("over", flush=True)
        os._exit(0)
        """
    )
    assert program.rest() == b"begun\nover\nlate\nlater\n"
    assert kept_bytes(program.kept) == b"begun\n"


def test_the_children_of_a_program_that_was_killed_go_on_printing(starts: Starts) -> None:
    program = starts(
        """
        capture = begin()
        subprocess.Popen(["sh", "-c", "sleep 0.5; echo late"])
        print("begun")
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert program.rest() == b"begun\nlate\n"
    assert kept_bytes(program.kept) == b"begun\nlate\n"


def test_a_reader_that_goes_ends_a_program_as_ever(starts: Starts) -> None:
    program = starts(
        """
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        capture = begin()
        while True:
            print("y" * 1000)
        """
    )
    program.line()
    assert program.process.stdout is not None
    program.process.stdout.close()
    assert program.process.wait(60) == -signal.SIGPIPE


def test_what_somebody_has_put_in_its_place_meanwhile_stays(starts: Starts, tmp_path: Path) -> None:
    program = starts(
        """
        capture = begin()
        print("captured")
        other = os.open("other", os.O_WRONLY | os.O_CREAT)
        os.dup2(other, 1)
        capture.end(30)
        os.write(1, b"theirs")
        os.write(2, b"as ever")
        """
    )
    assert program.rest() == b"captured\nas ever"
    assert (tmp_path / "other").read_bytes() == b"theirs"


def test_a_copy_of_an_output_that_is_put_back_after_the_end_leads_to_where_it_went(starts: Starts) -> None:
    program = starts(
        """
        capture = begin()
        copy = os.dup(1)
        capture.end(30)
        os.dup2(copy, 1)
        os.close(copy)
        print("by the copy")
        """
    )
    assert program.rest() == b"by the copy\n"


def test_a_process_captures_again_after_the_end_and_only_once_at_a_time(starts: Starts) -> None:
    program = starts(
        """
        first = begin()
        assert begin() is None
        print("one")
        first.end(30)
        print("between")
        second = begin()
        print("two")
        second.end(30)
        second.end(30)
        """
    )
    assert program.rest() == b"one\nbetween\ntwo\n"
    assert program.process.returncode == 0
    assert kept_bytes(program.kept) == b"one\ntwo\n"


def test_a_tee_serves_one_run_after_the_other_and_one_that_was_killed_in_between_is_missed_by_nobody(
    starts: Starts, tmp_path: Path
) -> None:
    program = starts(
        """
        for number in range(5):
            capture = begin()
            print("run", number)
            child = subprocess.Popen(["sh", "-c", f"sleep 0.5; echo late {number}"])
            capture.end(30)
            print("between", flush=True)
            if number == 2:
                sys.stdin.readline()
            with open("groups", "a") as file:
                print(capture_module._resting.tee.group, file=file)
        child.wait()
        capture = begin()
        print("and killed")
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        asked=True,
    )
    seen = b""
    while seen.count(b"between") < 3:
        line = program.line()
        assert line, "it has ended"
        seen += line
    for group in tee_groups(program.kept):
        os.killpg(group, signal.SIGKILL)
    program.press(b"\n")
    seen += program.rest()
    lines = seen.decode().splitlines()
    assert [line for line in lines if "late" not in line] == [
        *(line for number in range(5) for line in (f"run {number}", "between")),
        "and killed",
    ]
    assert sorted(line for line in lines if "late" in line)[-2:] == ["late 3", "late 4"]
    groups = (tmp_path / "groups").read_text().split()
    assert len(set(groups)) == 2, "one before it was killed, and one after it"
    eventually((program.kept / "done").exists)
    assert kept_bytes(program.kept) == b"".join(b"run %d\n" % number for number in range(5)) + b"and killed\n"


def test_a_forked_child_ends_nothing_and_may_capture_for_itself(starts: Starts, tmp_path: Path) -> None:
    program = starts(
        """
        capture = begin()
        pid = os.fork()
        if not pid:
            capture.end(30)
            kept = Path("kept of the child")
            kept.mkdir(mode=0o700)
            own = begin()
            print("the child")
            own.end(30)
            os._exit(0)
        os.waitpid(pid, 0)
        print("the parent")
        capture.end(30)
        """
    )
    assert program.rest() == b"the child\nthe parent\n"
    assert kept_bytes(tmp_path / "kept of the child") == b"the child\n"
    assert kept_bytes(program.kept) == b"the child\nthe parent\n"


def test_an_end_does_not_wait_for_a_reader_that_reads_nothing(starts: Starts) -> None:
    program = starts(
        """
        capture = begin()
        os.set_blocking(1, False)
        try:
            while True:
                os.write(1, b"x" * 4096)
        except BlockingIOError:
            pass
        os.set_blocking(1, True)
        capture.end(0.2)
        Path("over").touch()
        """
    )
    eventually((program.kept.parent / "over").exists)
    assert set(program.rest()) == {ord("x")}


def test_what_is_printed_after_the_end_does_not_overtake_what_a_slow_reader_has_yet_to_read(starts: Starts) -> None:
    # More than one pipe holds, and less than two: what the tee itself has in hand may be a single line.
    program = starts(
        """
        capture = begin()
        for number in range(1200):
            print(f"{number:099d}")
        capture.end(0.2)
        Path("over").touch()
        print("after it", flush=True)
        subprocess.run(["echo", "a child"])
        """
    )
    eventually((program.kept.parent / "over").exists)
    assert program.rest() == b"".join(b"%099d\n" % number for number in range(1200)) + b"after it\na child\n"


def test_a_program_without_outputs_has_nothing_to_capture(tmp_path: Path) -> None:
    path = tmp_path / "closed.py"
    path.write_text(f"{CAPTURED}\nassert begin() is None\nopen('fine', 'w').close()\n")
    shell = f'exec "{sys.executable}" "{path}" "{tmp_path / "kept"}" >&- 2>&-'
    assert subprocess.run(["sh", "-c", shell], check=False, cwd=tmp_path, timeout=60).returncode == 0
    assert (tmp_path / "fine").exists()


def test_lines_come_at_once_while_it_lasts(starts: Starts) -> None:
    program = starts(
        """
        before = sys.stdout.line_buffering
        capture = begin()
        assert sys.stdout.line_buffering
        capture.end(30)
        assert sys.stdout.line_buffering is before is False
        """
    )
    assert program.rest() == b""
    assert program.process.returncode == 0


def test_what_captures_at_the_descriptors_itself_may_be_around_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capture = Capture.begin(tmp_path, 1 << 20, pytest.fail)
    assert capture is not None
    assert active() is capture
    os.write(1, b"inside\n")
    capture.end(30)
    os.write(1, b"outside\n")
    assert capfd.readouterr().out == "inside\noutside\n"
    assert kept_bytes(tmp_path) == b"inside\n"


def test_a_tee_that_cannot_be_started_is_told_and_changes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(capture_module, "_resting", None)  # of the process's earlier ones
    told: list[str] = []
    before = len(list(Path("/dev/fd").iterdir()))
    assert Capture.begin(tmp_path, 1 << 20, told.append) is None
    assert told == ["what this program prints is not kept: there is no Python to start"]
    assert len(list(Path("/dev/fd").iterdir())) == before
    os.write(1, b"as ever\n")
    assert capfd.readouterr().out == "as ever\n"


def test_a_tee_that_never_says_a_word_is_given_up_and_all_arrives(starts: Starts, tmp_path: Path) -> None:
    """A program that embeds Python: what `sys.executable` names is the program, not a Python."""
    host = tmp_path / "host"
    host.write_text("#!/bin/sh\nexec sleep 1000\n")
    host.chmod(0o755)
    program = starts(
        f"""
        sys.executable = {str(host)!r}
        capture = begin()
        print("a" * 100_000)
        capture.end(60.0)
        print("after it")
        """
    )
    assert program.rest() == b"a" * 100_000 + b"\nafter it\n"
    assert kept_bytes(program.kept) == b"a" * 100_000 + b"\n"
    assert tee_groups(program.kept) == []


def test_what_cannot_be_written_where_it_goes_is_kept_and_said_once(tmp_path: Path) -> None:
    path = tmp_path / "prints.py"
    code = """
    capture = begin()
    for n in range(3):
        print("lost", n)
        time.sleep(0.1)
    capture.end(30.0)
    """
    path.write_text(CAPTURED + textwrap.dedent(code))
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, str(path), str(tmp_path / "kept")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.stderr.count("cannot all be written where it goes; its run's console.log has it") == 1, done.stderr
    kept = kept_bytes(tmp_path / "kept").decode().splitlines()
    assert [line for line in kept if line.startswith("lost")] == ["lost 0", "lost 1", "lost 2"]
