"""`tailrace_agent.files.holes`: the middle of a file gives its room back."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tailrace_agent.files import holes
from tailrace_agent.files.holes import punch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's call")


@pytest.fixture
def fd(tmp_path: Path) -> int:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    return os.open(path, os.O_RDWR)


def test_a_hole_gives_its_room_back_and_changes_nothing_else(fd: int) -> None:
    blocks = os.fstat(fd).st_blocks
    if not punch(fd, 5, (1 << 19) + 7):
        pytest.skip("this file system has no holes")
    after = os.fstat(fd)
    assert after.st_size == 1 << 20
    assert after.st_blocks * 512 <= blocks * 512 - (1 << 19) + 8192
    assert os.pread(fd, 1 << 20, 0) == b"x" * 5 + bytes((1 << 19) + 2) + b"x" * ((1 << 19) - 7)
    os.close(fd)


@pytest.mark.parametrize("end", [0, 5])
def test_an_empty_range_changes_nothing(fd: int, end: int) -> None:
    assert punch(fd, 5, end)
    assert os.pread(fd, 1 << 20, 0) == b"x" * (1 << 20)
    os.close(fd)


def test_a_file_that_cannot_be_written_is_an_error(fd: int) -> None:
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        punch(fd, 0, 5)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_holes_is_no_error(fd: int, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    import ctypes

    def refuse(*_: int) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(holes, "_found", [refuse])
    assert not punch(fd, 0, 5)
    os.close(fd)


def test_a_system_without_the_call_is_no_error(monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
    none: list[Callable[..., int] | None] = [None]
    monkeypatch.setattr(holes, "_found", none)
    assert not punch(fd, 0, 5)
    os.close(fd)
