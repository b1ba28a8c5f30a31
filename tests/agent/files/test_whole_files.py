"""Files are there as a whole or not at all, whatever the disk does in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailrace_agent.files import whole_files

_GOOD = b'{"a": 1}'


def test_a_write_that_the_disk_cuts_short_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.json"
    whole_files.replace(path, _GOOD)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, body: write(fd, bytes(body)[:3]))
    whole_files.replace(path, _GOOD * 2)
    assert path.read_bytes() == _GOOD * 2
    room = [10]

    def filling(fd: int, body: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = min(room[0], len(body))
        room[0] -= taken
        return write(fd, bytes(body)[:taken])

    monkeypatch.setattr(os, "write", filling)
    with pytest.raises(OSError, match="No space"):
        whole_files.replace(path, _GOOD * 9)
    assert path.read_bytes() == _GOOD * 2
    assert set(tmp_path.iterdir()) == {path}


def test_all_is_written_though_the_disk_takes_a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []
    monkeypatch.setattr(os, "write", lambda _fd, body: taken.append(bytes(body)[:3]) or 3)
    whole_files.write_all(7, b"123456789")
    assert taken == [b"123", b"456", b"789"]
    whole_files.write_all(7, b"")
    assert len(taken) == 3


def test_a_file_that_is_replaced_is_private_and_a_reader_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(_GOOD)
    path.chmod(0o644)
    with path.open("rb") as reader:
        whole_files.replace(path, b"new")
        assert reader.read() == _GOOD
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_an_attempt_that_was_killed_has_left_is_not_in_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    left = tmp_path / f"f.json.{os.getpid()}.new"
    left.write_bytes(b"x" * 100)
    left.chmod(0o600)
    whole_files.replace(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_is_to_survive_a_power_cut_waits_for_the_bytes_before_the_name_and_for_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.json"
    flushed: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: flushed.append((Path(f"/proc/self/fd/{fd}").readlink().name, path.exists()))
    )
    whole_files.replace(path, b"new", durable=True)
    assert flushed == [
        (f"f.json.{os.getpid()}.new", False),
        ("f.json", True),
        (tmp_path.name, True),
        (tmp_path.parent.name, True),
    ]
    flushed.clear()
    whole_files.replace(path, b"newer")
    assert flushed == []


def test_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        whole_files.replace(tmp_path / "gone" / "f.json", b"new")
    with pytest.raises(FileNotFoundError):
        whole_files.flush(tmp_path / "gone")
