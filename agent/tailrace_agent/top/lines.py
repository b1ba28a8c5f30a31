"""Lines of text with styles: what a frame is made of. Pure.

A style is a word (`dim`, `good`, `s0`, …); what it looks like is the screen's to say, and a pipe has none. What comes
from a run is foreign text: it goes through `piece` or `cut`, so that no control character of it reaches a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from rich.cells import cell_len, set_cell_size

from tailrace_agent.text.quoting import printable

__all__ = ["Line", "Piece", "beside", "columns_of", "cut", "fitted", "piece", "plain_text", "width_of"]


class Piece(NamedTuple):
    """Some characters in one style, all of them printable."""

    text: str
    style: str = ""


Line: TypeAlias = list[Piece]


def piece(text: str, style: str = "") -> Piece:
    r"""A piece of foreign text.

    Example:
        >>> piece("a\x1b[31m")
        Piece(text='a\\x1b[31m', style='')
    """
    return Piece(printable(text), style)


def columns_of(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return len(text) if text.isascii() else cell_len(text)


def width_of(line: Iterable[Piece]) -> int:
    """Columns that a line takes."""
    return sum(columns_of(each.text) for each in line)


def cut(text: str, width: int, *, left: bool = False) -> str:
    """Foreign text in exactly that many columns: padded, or cut with an ellipsis; at its beginning with `left`.

    Example:
        >>> cut("validation", 6), cut("abc", 5, left=True)
        ('valid…', '  abc')
    """
    if width <= 0:
        return ""
    text = printable(text[: 4 * width + 64])
    size = columns_of(text)
    if size <= width:
        return " " * (width - size) + text if left else text + " " * (width - size)
    if not left:
        return set_cell_size(text, width - 1) + "…"
    while text and columns_of(text) > width - 1:
        text = text[1:]
    return " " * (width - 1 - columns_of(text)) + "…" + text


def fitted(line: Line, width: int) -> Line:
    """The line in exactly that many columns."""
    if width_of(line) == width:
        return line
    found, room = [], width
    for text, style in line:
        size = columns_of(text)
        if size > room:
            if room > 0:
                found.append(Piece(set_cell_size(text, room), style))
            return found
        found.append(Piece(text, style))
        room -= size
    return [*found, Piece(" " * room)] if room else found


def beside(left: list[Line], right: list[Line], width: int) -> list[Line]:
    """Two blocks side by side, the left one in `width` columns."""
    height = max(len(left), len(right))
    left, right = (block + [[]] * (height - len(block)) for block in (left, right))
    return [[*fitted(one, width), *other] for one, other in zip(left, right, strict=True)]


def plain_text(line: Line) -> str:
    """The line without styles, and without blanks at its end."""
    return "".join(each.text for each in line).rstrip()
