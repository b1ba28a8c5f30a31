"""Dots in a grid of braille characters: two across and four down in each. Pure."""

from __future__ import annotations

from typing import Final

from tailrace_agent.top.lines import Line, Piece

__all__ = ["ACROSS", "DOWN", "Canvas"]

ACROSS: Final = 2
DOWN: Final = 4
"""Dots of one character."""
_BITS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLANK: Final = 0x2800


class Canvas:
    """A grid on which dots are set; the origin is at the top left.

    Args:
        width: Characters across.
        height: Characters down.

    A character that has dots of several styles has the one that was drawn last.

    Example:
        >>> canvas = Canvas(1, 1)
        >>> canvas.column(0, 0, 3, "")
        >>> canvas.lines[0][0].text
        '⡇'
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._cells = [[0] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]

    def column(self, x: int, top: int, bottom: int, style: str) -> None:
        """Sets the dots of one column between two heights, both of them included; what is outside is left out."""
        if not 0 <= x < self.width * ACROSS:
            return
        at, bits = x // ACROSS, _BITS[x % ACROSS]
        for y in range(max(0, min(top, bottom)), min(self.height * DOWN - 1, max(top, bottom)) + 1):
            row = y // DOWN
            self._cells[row][at] |= bits[y % DOWN]
            self._styles[row][at] = style

    def line(self, x0: int, y0: int, x1: int, y1: int, style: str) -> None:
        """Joins two dots, of which the second is further to the right."""
        across = x1 - x0
        if across <= 0:
            self.column(x0, y0, y1, style)
            return
        before = y0
        for x in range(x0, x1 + 1):
            y = y0 + round((y1 - y0) * (x - x0) / across)
            # From the height of the last column on, so that a steep line has no gaps.
            self.column(x, before + (y > before) - (y < before) if x > x0 else y, y, style)
            before = y

    @property
    def lines(self) -> list[Line]:
        """The characters, those of one style together."""
        found = []
        for cells, styles in zip(self._cells, self._styles, strict=True):
            line: Line = []
            text, style = "", styles[0] if styles else ""
            for cell, its in zip(cells, styles, strict=True):
                if its != style and cell:
                    line.append(Piece(text, style))
                    text, style = "", its
                text += chr(_BLANK + cell) if cell else " "
            line.append(Piece(text, style))
            found.append(line)
        return found
