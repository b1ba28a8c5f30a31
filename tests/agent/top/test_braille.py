"""Dots in a grid of braille characters."""

from __future__ import annotations

from itertools import pairwise

from tailrace_agent.top.braille import Canvas
from tailrace_agent.top.lines import Piece, plain_text


def _text(canvas: Canvas) -> list[str]:
    return ["".join(each.text for each in line) for line in canvas.lines]


def test_each_dot_has_its_place_in_a_character() -> None:
    for x, column in enumerate(("⠁⠂⠄⡀", "⠈⠐⠠⢀")):
        for y, character in enumerate(column):
            canvas = Canvas(1, 1)
            canvas.column(x, y, y, "")
            assert _text(canvas) == [character]


def test_a_column_goes_over_several_lines_and_what_is_outside_is_left_out() -> None:
    canvas = Canvas(2, 2)
    canvas.column(1, 9, 2, "s0")
    canvas.column(-1, 0, 7, "s0")
    canvas.column(4, 0, 7, "s0")
    canvas.column(3, 8, 12, "s0")
    assert _text(canvas) == ["⢠ ", "⢸ "]


def test_a_line_has_no_gaps_however_steep_it_is() -> None:
    canvas = Canvas(2, 2)
    canvas.line(0, 0, 3, 7, "")
    dots = [column for layer in canvas._layers.values() for column in layer]
    for before, after in pairwise(dots):
        assert before.bit_length() >= (after & -after).bit_length() - 1, "the next begins no lower than one below"
    assert dots[0] & 1
    assert dots[3] >> 7


def test_a_character_has_the_style_that_was_drawn_last_and_neighbours_of_one_style_are_one_piece() -> None:
    canvas = Canvas(4, 1)
    for x in range(6):
        canvas.column(x, 0, 0, "s0")
    canvas.column(2, 3, 3, "s1")
    assert canvas.lines == [[Piece("⠉", "s0"), Piece("⡉", "s1"), Piece("⠉", "s0"), Piece(" ", "")]]
    assert plain_text(Canvas(3, 1).lines[0]) == ""
