"""Artifacts are taken as they are at the call, whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers.written import taken
from tailrace._artifacts.snapshot import PARTIAL, snapshot, stage


def test_a_file_is_taken_as_it_was_whatever_happens_to_it_later(tmp_path: Path, root: Path) -> None:
    source = tmp_path / "model.pt"
    source.write_bytes(b"before")
    result = snapshot(source, root)
    source.write_bytes(b"after, and longer")
    assert taken(root, result).name == "model.pt"
    assert taken(root, result).read_bytes() == b"before"
    assert result.bytes == 6
    source.unlink()
    assert taken(root, result).read_bytes() == b"before"


def test_two_snapshots_of_one_file_have_names_of_their_own(tmp_path: Path, root: Path) -> None:
    source = tmp_path / "a"
    source.write_text("1")
    names = {snapshot(source, root).name for _ in range(20)}
    assert len(names) == 20
    assert {path.name for path in root.iterdir()} == names


def test_everything_staged_is_private(tmp_path: Path, root: Path) -> None:
    directory = tmp_path / "data"
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "x").write_text("x")
    (directory / "deep" / "x").chmod(0o777)
    result = snapshot(directory, root)
    for path in [root, root / result.name, *(root / result.name).rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("contents", [True, False])
def test_a_directory_is_taken_with_all_that_is_in_it(tmp_path: Path, root: Path, contents: bool) -> None:
    directory = tmp_path / "ckpt"
    (directory / "a" / "b").mkdir(parents=True)
    (directory / "empty").mkdir()
    (directory / "top").write_text("1")
    (directory / "a" / "b" / "deep").write_text("22")
    result = snapshot(directory, root, contents=contents)
    copy = taken(root, result)
    assert copy.name == "ckpt"
    assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*")) == ["a", "a/b", "a/b/deep", "empty", "top"]
    assert (copy / "a" / "b" / "deep").read_text() == "22"
    assert result.bytes == 3
    assert result.skipped == ()


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path, root: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("real")
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / "file").symlink_to(outside / "file")
    (directory / "dir").symlink_to(outside)
    (directory / "up").symlink_to(directory)
    (outside / "back").symlink_to(directory)
    (directory / "self").symlink_to("self")
    (directory / "broken").symlink_to("nowhere")
    result = snapshot(directory, root)
    copy = taken(root, result)
    assert (copy / "file").read_text() == "real"
    assert not (copy / "file").is_symlink()
    assert (copy / "dir" / "file").read_text() == "real"
    said = {Path(line.partition(": ")[0]).name: line.partition(": ")[2] for line in result.skipped}
    assert said == {
        "up": "a link to a directory above",
        "back": "a link to a directory above",
        "self": "a link to itself",
        "broken": "a broken link",
    }


def test_a_link_to_a_file_keeps_its_own_name(tmp_path: Path, root: Path) -> None:
    (tmp_path / "model-7.pt").write_text("7")
    (tmp_path / "last.pt").symlink_to("model-7.pt")
    copy = taken(root, snapshot(tmp_path / "last.pt", root))
    assert (copy.name, copy.read_text(), copy.is_symlink()) == ("last.pt", "7", False)


def test_pipes_and_sockets_in_a_directory_are_skipped_and_reported(tmp_path: Path, root: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    os.mkfifo(directory / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(directory / "socket"))
    (directory / "file").write_text("x")
    result = snapshot(directory, root)
    listener.close()
    assert [path.name for path in taken(root, result).iterdir()] == ["file"]
    assert len(result.skipped) == 2


def test_the_staging_root_is_left_out_when_it_lies_in_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    root = tmp_path / "state" / "artifacts"
    for _ in range(2):
        copy = taken(root, snapshot(tmp_path, root))
        assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*")) == ["file", "state"]


@pytest.mark.parametrize("name", ["missing", "pipe"])
def test_what_cannot_be_taken_is_an_error_that_names_it_and_leaves_nothing(
    tmp_path: Path, root: Path, name: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError) as caught:
        snapshot(tmp_path / name, root)
    assert str(tmp_path / name) in str(caught.value)
    assert "cannot take the artifact" in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError) == (name == "missing")
    assert list(root.iterdir()) == []


def test_contents_of_a_file_are_an_error(tmp_path: Path, root: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="file"):
        snapshot(tmp_path / "file", root, contents=True)


def test_a_file_that_may_not_be_read_is_a_permission_error(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "secret"
    source.write_text("x")

    def denied(*_: Any, **__: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tailrace._artifacts.snapshot.take_file", denied)  # the tests run as root, whom nothing denies
    with pytest.raises(PermissionError, match="secret"):
        snapshot(source, root)
    assert list(root.iterdir()) == []


def test_a_snapshot_appears_whole_and_never_under_its_name_before(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a"
    source.write_text("x")
    seen: list[str] = []
    really = os.rename

    def watched(old: str, new: str) -> None:
        seen.extend(path.name for path in root.iterdir())
        really(old, new)

    monkeypatch.setattr(os, "rename", watched)
    snapshot(source, root)
    assert len(seen) == 1
    assert seen[0].startswith(PARTIAL)


def test_a_file_that_vanishes_from_a_directory_meanwhile_is_reported(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / "stays").write_text("x")
    really = os.listdir
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", lambda path: [*really(path), "gone"])
        result = snapshot(directory, root)
    assert [path.name for path in taken(root, result).iterdir()] == ["stays"]
    assert result.skipped == (f"{directory / 'gone'}: it vanished meanwhile",)


def test_a_relative_source_is_taken_under_its_real_name(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    assert taken(root, snapshot(Path(), root)).name == "data"


def test_a_new_file_is_staged_whole_or_not_at_all(root: Path) -> None:
    result = stage(root, "notes.txt", lambda path: path.write_bytes(b"hello") and None)
    assert taken(root, result).read_text() == "hello"
    assert result.bytes == 5
    assert stat.S_IMODE(taken(root, result).stat().st_mode) == 0o600

    def fails(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        stage(root, "notes.txt", fails)
    assert len(list(root.iterdir())) == 1


def test_many_threads_may_take_snapshots_at_once(tmp_path: Path, root: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"x" * 10_000)
    threads = [threading.Thread(target=lambda: [snapshot(source, root) for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(root.iterdir())) == 100
    assert all(len(next(path.iterdir()).read_bytes()) == 10_000 for path in root.iterdir())
