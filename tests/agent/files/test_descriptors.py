"""Descriptors that are kept are never standard ones; what is made is private, and its room is there."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tailrace_agent.files import descriptors
from tailrace_agent.files.descriptors import Spare, map_kept, nameless, open_kept, reserve

linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux's")

WITHOUT_STANDARD_STREAMS = """
import os, sys
said = os.dup(1)
os.closerange(0, 3)
from tailrace_agent.files.descriptors import map_kept, nameless, open_kept, reserve
kept = open_kept(sys.argv[1], os.O_RDWR | os.O_CREAT)
reserve(kept, 4096)
mapped = map_kept(kept, 4096)
numbers = [kept, nameless("/", b"x")]
there = [fd for fd in range(3) if os.path.exists(f"/proc/self/fd/{fd}")]
os.write(said, repr((min(numbers) > 2, there)).encode())
"""


@linux
def test_in_a_program_without_standard_streams_nothing_that_is_kept_takes_their_numbers(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_STANDARD_STREAMS, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "(True, [])"


@pytest.mark.parametrize("umask", [0, 0o777])
def test_what_is_made_has_the_mode_that_was_asked_for_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        fd = open_kept(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o640)
    finally:
        os.umask(before)
    os.close(fd)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_file_that_was_there_is_closed_to_others_only_where_it_may_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for flags, mode in ((os.O_WRONLY, 0o644), (os.O_WRONLY | os.O_CREAT, 0o600)):
        file.chmod(0o644)
        os.close(open_kept(file, flags))
        assert stat.S_IMODE(file.stat().st_mode) == mode


def test_no_child_gets_a_descriptor_that_is_kept(tmp_path: Path) -> None:
    fd = open_kept(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize("in_memory", [pytest.param(True, marks=linux), False])
def test_a_nameless_file_is_read_from_its_start_and_found_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    with os.fdopen(nameless(tmp_path, b"secret"), "rb") as file:
        assert list(tmp_path.iterdir()) == []
        assert file.read() == b"secret"


@pytest.mark.parametrize("system", ["linux", "macos"])
def test_room_is_taken_and_what_is_in_the_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    if system == "macos":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    file = tmp_path / "file"
    file.write_bytes(b"rows")
    for size in (8192, 4096):
        with file.open("r+b") as opened:
            reserve(opened.fileno(), size)
        assert file.read_bytes() == b"rows" + bytes(8188)


def test_a_mapping_writes_through_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(mmap.PAGESIZE))
    with (tmp_path / "file").open("r+b") as file:
        mapped = map_kept(file.fileno(), mmap.PAGESIZE)
    mapped[:2] = b"ok"
    assert (tmp_path / "file").read_bytes()[:3] == b"ok\0"
    mapped.close()


@linux
def test_where_no_descriptor_is_left_one_in_reserve_opens_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = Spare(2)
    spare.fill()
    monkeypatch.setattr(descriptors, "SPARE", spare)
    really, refused = os.open, iter([True])

    def full(path: str, flags: int, mode: int = 0o777) -> int:
        if next(refused, False):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", full)
    monkeypatch.setattr(spare, "_some_are_left", lambda: False)
    fd = open_kept(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    os.close(fd)
    assert (tmp_path / "file").exists()


def test_another_error_than_a_want_of_descriptors_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: list[bool] = []
    monkeypatch.setattr(Spare, "lend", lambda _self, *, many=False: bool(lent.append(many)))
    with pytest.raises(FileNotFoundError):
        open_kept(tmp_path / "nowhere" / "file", os.O_RDONLY)
    assert lent == []


@linux
def test_what_is_lent_is_taken_back_when_the_last_borrower_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    create = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda _name, flags: create("of this test", flags))

    def held() -> int:
        return sum("of this test" in str(fd.readlink()) for fd in _open_descriptors())

    spare = Spare(3)
    spare.fill()
    assert held() == 3
    assert not spare.lend()  # others are left
    with spare.lent(many=True):
        assert held() == 0
        with spare.lent(many=True):
            pass
        assert held() == 0  # somebody still needs them
    assert held() == 3
    with spare.lent(many=True):
        spare.after_fork()  # of whoever had borrowed them, the child has nobody
        spare.take_back()
        assert held() == 3
    spare.lend(many=True)
    assert held() == 0


def _open_descriptors() -> list[Path]:
    there = list(Path("/proc/self/fd").iterdir())
    return [fd for fd in there if fd.is_symlink()]  # the listing's own is closed by now
