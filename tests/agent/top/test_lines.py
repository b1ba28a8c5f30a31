"""Lines of text with styles: widths, and no control character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.top.lines import Piece, beside, columns_of, cut, fitted, piece, plain_text, width_of

_HOSTILE = st.text(alphabet="ab \x1b[31m\x07\r\n\t漢字é\u202e", max_size=40)


@given(_HOSTILE, st.integers(0, 30), st.booleans())
def test_a_cut_text_is_exactly_as_wide_and_holds_no_control_character(text: str, width: int, left: bool) -> None:
    found = cut(text, width, left=left)
    assert columns_of(found) == width
    assert found.isprintable()


def test_what_does_not_fit_ends_or_begins_with_an_ellipsis() -> None:
    assert (cut("validation", 6), cut("abc", 5)) == ("valid…", "abc  ")
    assert (cut("validation", 6, left=True), cut("abc", 5, left=True)) == ("…ation", "  abc")
    assert piece("a\x1b]0;title\x07") == Piece("a\\x1b]0;title\\x07")


@pytest.mark.parametrize("text", ["abcdef", "漢字漢字", ""])
@pytest.mark.parametrize("width", [0, 3, 4, 10])
def test_a_fitted_line_is_exactly_as_wide(text: str, width: int) -> None:
    assert width_of(fitted([Piece("x", "bold"), Piece(text)], width)) == width


def test_two_blocks_stand_side_by_side_each_with_its_own_lines() -> None:
    left, right = [[Piece("a")], [Piece("b")]], [[Piece("1")]]
    assert [plain_text(line) for line in beside(left, right, 3)] == ["a  1", "b"]
    assert [plain_text(line) for line in beside(right, left, 3)] == ["1  a", "   b"]
