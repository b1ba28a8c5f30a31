"""The board: a sample is read whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace_agent.ipc.sample_board import BoardReader, BoardWriter, board_file


def test_a_board_is_never_read_half(tmp_path: Path) -> None:
    writer, reader = BoardWriter(tmp_path / "b"), BoardReader(tmp_path / "b")
    assert reader.read() == {}
    writer.write({"a": 1.0})
    assert reader.read() == {"a": 1.0}
    writer._words[0] += 1  # in the middle of a write
    writer._map[24:26] = b"xx"
    assert reader.read() == {"a": 1.0}
    writer._words[0] += 1  # said to be whole, but it is not
    assert reader.read() == {"a": 1.0}
    writer.write({"a": 2.0})
    assert reader.read() == {"a": 2.0}
    writer.write({f"{'x' * 100}{i}": 1.0 for i in range(2000)})  # too large for it
    assert reader.read() == {"a": 2.0}


def test_an_agent_that_comes_after_one_killed_in_a_write_is_read_again(tmp_path: Path) -> None:
    first = BoardWriter(tmp_path / "b")
    first.write({"a": 1.0})
    with (tmp_path / "b").open("r+b") as file:  # killed in the middle: the number is odd
        file.write((3).to_bytes(8, "little"))
    reader, second = BoardReader(tmp_path / "b"), BoardWriter(tmp_path / "b")
    assert reader.read() == {}
    second.write({"a": 2.0})
    assert reader.read() == {"a": 2.0}
    assert reader.sequence % 2 == 0


def test_what_was_read_is_the_readers_own(tmp_path: Path) -> None:
    writer, reader = BoardWriter(tmp_path / "b"), BoardReader(tmp_path / "b")
    writer.write({"a": 1.0})
    reader.read()["a"] = 9.0
    assert reader.read() == {"a": 1.0}


@pytest.mark.parametrize("size", [0, 24, 1000])
def test_a_file_that_is_not_of_its_size_yet_is_not_there_yet(tmp_path: Path, size: int) -> None:
    (tmp_path / "b").write_bytes(bytes(size))
    reader = BoardReader(tmp_path / "b")
    assert reader.read() == {}
    BoardWriter(tmp_path / "b").write({"a": 1.0})
    assert reader.read() == {"a": 1.0}


@pytest.mark.parametrize("what", ["link", "of others"])
def test_a_file_that_is_not_this_users_alone_is_not_read(tmp_path: Path, what: str) -> None:
    BoardWriter(tmp_path / "real").write({"a": 1.0})
    if what == "link":
        (tmp_path / "b").symlink_to(tmp_path / "real")
    else:
        (tmp_path / "real").rename(tmp_path / "b")
        (tmp_path / "b").chmod(0o666)
    assert BoardReader(tmp_path / "b").read() == {}


def test_each_place_of_a_run_has_its_own_file(tmp_path: Path) -> None:
    places = [(1, "system", None), (2, "system", None), (1, "gpus", None), (1, "system", "n-1"), (1, "system", "n-2")]
    assert len({board_file(tmp_path, *place) for place in places}) == len(places)
