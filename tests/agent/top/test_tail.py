"""The last lines of a file that grows."""

from __future__ import annotations

from pathlib import Path

from tailrace_agent.top.tail import Tail


def test_what_comes_is_seen_and_a_line_that_is_not_whole_too(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_bytes(b"one\ntwo\nthr")
    assert tail.lines() == ["one", "two", "thr"]
    with path.open("ab") as file:
        file.write(b"ee\n\xff\n")
    assert tail.lines() == ["one", "two", "three", "�"]


def test_of_a_progress_bar_the_last_state_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b" 10%\r 20%\r 30%\rdone\r\n 40%\r 50%")
    assert Tail(path).lines() == ["done", " 50%"]


def test_of_a_large_file_the_end_is_read_and_of_what_comes_at_once_too(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"".join(b"%d\n" % n for n in range(200_000)))
    tail = Tail(path)
    assert tail.lines()[-1] == "199999"
    with path.open("ab") as file:
        file.write(b"x" * 10_000_000 + b"\nlast\n")
    assert tail.lines()[-1] == "last"
    assert len(tail.lines()) <= 50


def test_another_file_under_the_name_and_one_that_was_cut_are_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"a\nb\n")
    tail = Tail(path)
    assert tail.lines() == ["a", "b"]
    path.write_bytes(b"c\n")
    assert tail.lines() == ["c"]
    other = tmp_path / "other"
    other.write_bytes(b"longer than before\n")
    other.replace(path)
    assert tail.lines() == ["longer than before"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    link = tmp_path / "console.log"
    link.symlink_to(secret)
    assert Tail(link).lines() == []
