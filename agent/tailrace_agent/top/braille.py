"""Dots in a grid of braille characters: two across and four down in each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tailrace_agent.top.lines import Line, Piece

__all__ = ["ACROSS", "DOWN", "Canvas"]

ACROSS: Final = 2
DOWN: Final = 4
"""Dots of one character."""
_LEFT: Final = (0x01, 0x02, 0x04, 0x40)
_RIGHT: Final = (0x08, 0x10, 0x20, 0x80)
_BLANK: Final = 0x2800


def _character(dots: int) -> str:
    """The character of four dots on the left and, behind them, four on the right; a blank without any."""
    pattern = sum(bit for n, bit in enumerate((*_LEFT, *_RIGHT)) if dots >> n & 1)
    return chr(_BLANK + pattern) if pattern else " "


_CHARACTERS: Final = tuple(map(_character, range(256)))


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
        self._layers: dict[str, list[int]] = {}
        """By style the columns of dots, each as one number with a bit for each dot: nothing here is done dot by dot."""

    def column(self, x: int, top: int, bottom: int, style: str) -> None:
        """Sets the dots of one column between two heights, both of them included; what is outside is left out."""
        if top > bottom:
            top, bottom = bottom, top
        top, bottom = max(top, 0), min(bottom, self.height * DOWN - 1)
        if top <= bottom and 0 <= x < self.width * ACROSS:
            self._layer(style)[x] |= (1 << (bottom + 1)) - (1 << top)

    def _layer(self, style: str) -> list[int]:
        layer = self._layers.get(style)
        if layer is None:
            layer = self._layers[style] = [0] * (self.width * ACROSS)
        return layer

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
        layers = list(self._layers.items())
        if not layers:
            return [[Piece(" " * self.width)] for _ in range(self.height)]
        if len(layers) == 1:
            style, columns = layers[0]
            return [[Piece(text, style)] for text in _texts(columns, self.height)]
        alone = [(style, _texts(columns, self.height)) for style, columns in layers]
        together = _texts([_all_of(columns) for columns in zip(*self._layers.values(), strict=True)], self.height)
        return [_styled(text, [(style, texts[n]) for style, texts in alone]) for n, text in enumerate(together)]


def _texts(columns: Sequence[int], height: int) -> list[str]:
    pairs = list(zip(columns[::ACROSS], columns[1::ACROSS], strict=True))
    return [
        "".join([_CHARACTERS[(left >> at & 15) | (right >> at & 15) << DOWN] for left, right in pairs])
        for at in range(0, height * DOWN, DOWN)
    ]


def _all_of(columns: Iterable[int]) -> int:
    found = 0
    for column in columns:
        found |= column
    return found


def _styled(text: str, layers: Sequence[tuple[str, str]]) -> Line:
    """A line of all layers, each character in the style of the last one that has something there."""
    styles = [""] * len(text)
    for style, its in layers:
        styles = [style if character != " " else before for character, before in zip(its, styles, strict=True)]
    line: Line = []
    begin = 0
    for n in range(1, len(text) + 1):
        if n == len(text) or styles[n] != styles[begin]:
            line.append(Piece(text[begin:n], styles[begin]))
            begin = n
    return line
