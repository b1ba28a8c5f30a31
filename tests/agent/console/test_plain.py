"""What a terminal was sent, as plain text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.console.plain import Plain


@pytest.mark.parametrize(
    ("sent", "lines"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("\r 10%|#\r 20%|##\r100%|#####\nnext\n", ["100%|#####", "next"]),
        ("10%\r20%\r\n", ["20%"]),
        ("\r50%|###\r      \rnext\n", ["next"]),
        ("\x1b[1;32mgreen\x1b[0m \x1b]0;a title\x07\n", ["green"]),
        ("\x1b]8;;http://x\x1b\\a link\x1b]8;;\x1b\\\n", ["a link"]),
        ("ab\x08c\n", ["ac"]),
        ("tab\there\n", ["tab\there"]),
        ("bell\x07\x00\n", ["bell"]),
        ("Grüße █▇\n", ["Grüße █▇"]),
        ("\n\n", ["", ""]),
    ],
)
def test_a_line_is_what_stood_there_at_last(sent: str, lines: list[str]) -> None:
    assert Plain().feed(sent.encode()) == lines


def test_what_is_no_utf8_costs_its_own_characters() -> None:
    assert Plain().feed(b"a\xff\xfeb\n") == ["a\ufffd\ufffdb"]


def test_a_line_that_is_not_complete_can_be_seen() -> None:
    plain = Plain()
    assert plain.feed(b"done\n\r 10%\r 20%\x1b[3") == ["done"]
    assert plain.begun == " 20%"
    assert plain.feed(b"1m\r 30%") == []
    assert plain.begun == " 30%"


def test_a_line_without_an_end_is_broken_and_a_bar_of_hours_is_not() -> None:
    plain = Plain()
    assert sum(len(line) for line in plain.feed(b"x" * 50_000)) + len(plain.begun) == 50_000
    bar = Plain()
    for step in range(10_000):
        assert bar.feed(f"\r{step}/10000".encode()) == []
    assert bar.begun == "9999/10000"
    assert bar.feed(b"\n") == ["9999/10000"]


@given(st.lists(st.text("ab\r\n\x1b[1mé█", max_size=20), max_size=6).map("".join), st.integers(1, 7))
def test_in_which_pieces_it_comes_is_all_the_same(sent: str, size: int) -> None:
    data = sent.encode()
    whole, pieces = Plain(), Plain()
    lines = [line for at in range(0, len(data), size) for line in pieces.feed(data[at : at + size])]
    assert lines == whole.feed(data)
    assert pieces.begun == whole.begun
