"""One file, taken in whichever way the file system has: the same bytes by each of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from helpers.written import taken
from tailrace._artifacts import file_copy
from tailrace._artifacts.snapshot import snapshot


@pytest.mark.parametrize("where", ["file", "directory"])
def test_a_failure_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / "a").write_text("a")
    (directory / "b").write_text("b")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_copy, "_reflink", lambda *_: False)
    monkeypatch.setattr(file_copy, "_in_kernel", full)
    with pytest.raises(OSError, match="No space left") as caught:
        snapshot(directory if where == "directory" else directory / "a", root)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(directory / "a")
    assert list(root.iterdir()) == []


def test_a_hard_link_is_used_only_where_it_was_allowed(tmp_path: Path, root: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(file_copy, "_reflink", lambda *_: False)
    source = tmp_path / "a"
    source.write_text("before")
    linked = snapshot(source, root, mode="link")
    copied = snapshot(source, root)
    assert (linked.how, linked.bytes, copied.how) == ("link", 6, "copy")
    assert taken(root, linked).samefile(source)
    # A writer that replaces the file by a rename does it no harm.
    (tmp_path / "new").write_text("after")
    (tmp_path / "new").rename(source)
    assert taken(root, linked).read_text() == "before"


def test_where_no_hard_link_is_possible_the_file_is_copied(tmp_path: Path, root: Path, monkeypatch: Any) -> None:
    def other_device(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_device)
    (tmp_path / "a").write_text("x")
    result = snapshot(tmp_path / "a", root, mode="link")
    assert result.how in ("copy", "reflink")
    assert taken(root, result).read_text() == "x"


def test_another_file_system_is_copied_to_all_the_same(root: Path) -> None:
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or (shm.stat().st_dev == root.parent.parent.stat().st_dev):
        pytest.skip("no second file system to write to")
    source = shm / f"tailrace-test-{os.getpid()}"
    source.write_bytes(os.urandom(300_000))
    try:
        for mode in ("copy", "link"):
            result = snapshot(source, root, mode=mode)  # type: ignore[arg-type]
            assert result.how == "copy"
            assert taken(root, result).read_bytes() == source.read_bytes()
    finally:
        source.unlink()


@pytest.mark.parametrize("way", ["kernel", "refused", "absent", "early end", "refused in the middle"])
def test_every_way_of_copying_gives_the_same_bytes(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    data = os.urandom(3 << 20)
    source = tmp_path / "a"
    source.write_bytes(data)
    really, calls = file_copy._in_kernel, [0]

    def refused(*_: Any) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    def then(what: int | None) -> Any:
        def way(reader: int, writer: int, count: int, offset: int) -> int:
            calls[0] += 1
            if calls[0] == 1:
                return really(reader, writer, 1 << 20, offset)
            return refused() if what is None else what

        return way

    if way == "refused":
        monkeypatch.setattr(file_copy, "_in_kernel", refused)
    elif way == "early end":
        monkeypatch.setattr(file_copy, "_in_kernel", then(0))
    elif way == "refused in the middle":
        monkeypatch.setattr(file_copy, "_in_kernel", then(None))
    elif way == "absent":
        monkeypatch.delattr(os, "copy_file_range")
    result = snapshot(source, root)
    assert result.bytes == len(data)
    assert taken(root, result).read_bytes() == data


def test_a_sparse_file_keeps_its_holes(tmp_path: Path, root: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.seek(8 << 20)
        file.write(b"middle")
        file.truncate(64 << 20)
    if source.stat().st_blocks * 512 >= 64 << 20:
        pytest.skip("this file system has no holes")
    copy = taken(root, snapshot(source, root))
    assert copy.stat().st_size == 64 << 20
    assert copy.stat().st_blocks * 512 < 1 << 20
    assert copy.read_bytes() == source.read_bytes()


def test_a_file_that_is_all_hole_and_one_that_is_empty_are_taken(tmp_path: Path, root: Path) -> None:
    hole, empty = tmp_path / "hole", tmp_path / "empty"
    hole.touch()
    os.truncate(hole, 1 << 20)
    empty.touch()
    assert taken(root, snapshot(hole, root)).read_bytes() == bytes(1 << 20)
    assert taken(root, snapshot(empty, root)).read_bytes() == b""


def test_a_file_that_shrinks_meanwhile_is_taken_as_far_as_it_goes(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a"
    source.write_bytes(os.urandom(1 << 20))
    really = file_copy._copy

    def shrunk(reader: int, writer: int, found: os.stat_result) -> int:
        os.truncate(source, 1000)
        return really(reader, writer, found)

    monkeypatch.setattr(file_copy, "_reflink", lambda *_: False)
    monkeypatch.setattr(file_copy, "_copy", shrunk)
    result = snapshot(source, root)
    assert result.bytes == 1000
    assert taken(root, result).read_bytes() == source.read_bytes()


def test_a_file_that_grows_meanwhile_comes_to_an_end(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "log"
    source.write_bytes(b"x" * 1000)
    really = file_copy._copy

    def grown(reader: int, writer: int, found: os.stat_result) -> int:
        with source.open("ab") as file:
            file.write(b"y" * 1000)
        return really(reader, writer, found)

    monkeypatch.setattr(file_copy, "_reflink", lambda *_: False)
    monkeypatch.setattr(file_copy, "_copy", grown)
    assert taken(root, snapshot(source, root)).read_bytes() == b"x" * 1000


def test_a_file_without_a_size_is_read_to_its_end(root: Path) -> None:
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("no /proc here")
    assert b"processor" in taken(root, snapshot(Path("/proc/cpuinfo"), root)).read_bytes()
