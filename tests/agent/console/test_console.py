"""One process's console: from what its tee keeps to a text."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tailrace_agent.console import kept
from tailrace_agent.console.console import Console
from tailrace_agent.console.tee import DONE, PARTS, Segments


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "rank0.raw").mkdir(mode=0o700)
    return tmp_path / "rank0.raw"


def _console(raw: Path, limit: int = 1 << 20) -> Console:
    return Console(raw, raw.parent / "console.log", limit)


def test_what_was_kept_becomes_lines_without_secrets(raw: Path) -> None:
    segments, console = Segments(str(raw), 1 << 20), _console(raw)
    segments.keep(b"one\ntwo password=hunter2\nthr")
    assert console.read()
    assert not console.read()
    segments.keep(b"ee\n")
    assert console.read()
    assert (raw.parent / "console.log").read_text() == "one\ntwo password=***\nthree\n"
    assert console.last_lines == ["one", "two password=***", "three"]
    assert not console.done
    segments.done()
    assert console.done
    assert (raw / DONE).exists()


def test_a_copy_has_the_line_that_is_not_complete(raw: Path) -> None:
    segments, console = Segments(str(raw), 1 << 20), _console(raw)
    segments.keep(b"\r 10%\r 20%")
    assert console.read()
    console.copy(raw.parent / "copy")
    assert (raw.parent / "copy").read_text() == " 20%"
    assert console.last_lines == [" 20%"]
    assert not console.read()


def test_what_was_given_up_in_between_is_counted(raw: Path) -> None:
    segments, console = Segments(str(raw), 16_000), _console(raw)
    lines = [f"{number:07d}\n".encode() for number in range(10_000)]
    for line in lines:
        segments.keep(line)
    assert len(list(raw.iterdir())) == PARTS
    assert console.read()
    text = (raw.parent / "console.log").read_text().splitlines()
    (mark,) = [line for line in text if line.startswith("[…")]
    assert int(mark.split()[1].replace(",", "")) + 8 * (len(text) - 1) == 8 * len(lines)
    assert (text[0], text[-1]) == ("0000000", "0009999")


def test_a_console_that_is_read_anew_is_the_same(raw: Path) -> None:
    segments = Segments(str(raw), 1 << 20)
    segments.keep(b"one\n")
    first = _console(raw)
    first.read()
    segments.keep(b"two\n")
    _console(raw).read()
    assert (raw.parent / "console.log").read_text() == "one\ntwo\n"


def test_what_is_in_the_text_takes_the_place_of_what_was_printed_and_another_attempt_goes_on(raw: Path) -> None:
    first, console = Segments(str(raw), 1 << 20), _console(raw)
    first.keep(b"one password=hunter2\nbegun")
    (raw / "traceback.txt").write_text("password=hunter2")
    console.read()
    console.forget(goes_on=True)
    first.done()
    assert not [path for path in raw.rglob("*") if b"hunter2" in path.read_bytes()]
    assert not console.read()
    second = Segments(str(raw), 1 << 20)
    assert not (raw / DONE).exists()
    second.keep(b"two\n")
    for again in (_console(raw), _console(raw)):  # an agent was killed in between
        assert again.read()
        assert again.spoken
        assert again.last_lines[-1] == "two"
        assert (raw.parent / "console.log").read_text() == "one password=***\nbegun\ntwo\n"


def test_what_is_printed_while_the_bytes_are_deleted_is_kept(raw: Path) -> None:
    first, console = Segments(str(raw), 1 << 20), _console(raw)
    first.keep(b"one\n")
    console.read()
    second = Segments(str(raw), 1 << 20)  # of the next attempt
    second.keep(b"two\n")
    console.forget(goes_on=True)
    second.keep(b"three\n")
    another = _console(raw)
    another.read()
    assert (raw.parent / "console.log").read_text() == "one\ntwo\nthree\n"


def test_tailraces_own_lines_are_nothing_that_was_said(raw: Path) -> None:
    segments, console = Segments(str(raw), 1 << 20), _console(raw)
    segments.keep(b"tailrace: look at run 'a'\n\n")
    console.read()
    assert not console.spoken
    segments.keep(b"x")
    console.read()
    assert console.spoken


def test_what_lies_beside_it_is_masked_and_need_not_be_there(raw: Path) -> None:
    console = _console(raw)
    assert console.traceback == console.crash == ""
    (raw / "traceback.txt").write_text("ValueError: token=abc\n")
    (raw / "traceback.txt").chmod(0o600)
    assert console.traceback == "ValueError: token=***\n"


def test_a_directory_that_is_gone_is_a_console_without_a_word(tmp_path: Path) -> None:
    assert not _console(tmp_path / "nowhere").read()


def test_lines_that_the_disk_does_not_take_are_written_once_it_does(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segments, console = Segments(str(raw), 1 << 20), _console(raw)
    segments.keep(b"one\n")
    assert console.read()
    segments.keep(b"two\nthree\n")

    def full(fd: int, body: bytes) -> None:
        os.write(fd, body[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(kept, "write_all", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                console.read()
    segments.keep(b"four\n")
    assert console.read()
    assert not console.read()
    assert (raw.parent / "console.log").read_text() == "one\ntwo\nthree\nfour\n"
    assert console.last_lines == ["one", "two", "three", "four"]
