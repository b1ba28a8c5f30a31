"""The terminal: Textual's loop around `View` and `frame`, which know what is to be seen, and what a key does."""

from __future__ import annotations

import time
from typing import ClassVar, Final

import msgspec
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tailrace_agent.top.frame import Frame, Spot, frame
from tailrace_agent.top.lines import Line
from tailrace_agent.top.rows import Known
from tailrace_agent.top.source import Source
from tailrace_agent.top.view import View

__all__ = ["Board", "Top"]

_TICK: Final = 0.05
_DRAW_EVERY: Final = 0.2
_LIST_EVERY: Final = 1.0
"""Seconds between two looks at whether something is new, two frames of new curves, and two of the list."""
_SHARE: Final = 40
_DRAW_AT_LEAST_EVERY: Final = 0.35
"""At most one part in this many of the time goes into frames, however large, as long as they come often enough."""
_STYLES: Final = {
    "": Style(),
    "dim": Style(dim=True),
    "faint": Style(color="bright_black"),
    "bold": Style(bold=True),
    "title": Style(bold=True),
    "chosen": Style(bold=True, reverse=True),
    "good": Style(color="green"),
    "warn": Style(color="yellow"),
    "bad": Style(color="red", bold=True),
    "s0": Style(color="cyan"),
    "s1": Style(color="yellow"),
    "s2": Style(color="magenta"),
    "s3": Style(color="green"),
    "s4": Style(color="blue"),
    "s5": Style(color="red"),
}
"""The terminal's own sixteen colours: readable on dark and light, over SSH, and gone under NO_COLOR."""


class Board(Widget):
    """Shows the lines of a frame; of a new one only those that are different are drawn again."""

    DEFAULT_CSS = "Board { width: 100%; height: 100%; }"

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Line] = []
        self._strips: list[Strip] = []

    def show(self, lines: list[Line]) -> None:
        """The next frame."""
        old, self._lines = self._lines, lines
        width = self.size.width
        strips = self._strips if len(self._strips) == len(lines) else [Strip.blank(width)] * len(lines)
        changed = []
        for n, line in enumerate(lines):
            if n >= len(old) or len(old) != len(lines) or old[n] != line:
                strips[n] = Strip([Segment(text, _STYLES[style]) for text, style in line], width)
                changed.append(Region(0, n, width, 1))
        self._strips = strips
        if changed:
            self.refresh(*changed)

    def render_line(self, y: int) -> Strip:
        """As Textual asks for it."""
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width)


class Top(App[None]):
    """The application.

    Args:
        source: What is known of runs.
        view: What is chosen at the beginning.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = "Screen { overflow: hidden; }"
    BINDINGS: ClassVar[list[BindingType]] = [("ctrl+c", "quit", "Quit")]

    def __init__(self, source: Source, view: View) -> None:
        super().__init__(ansi_color=True)
        self.view = view
        self._source = source
        self._known = Known()
        self._frame = Frame([], [], [])
        self._draw_at = 0.0
        self._list_at = 0.0
        self.board = Board()

    def compose(self) -> ComposeResult:
        """As Textual asks for it."""
        yield self.board

    def on_mount(self) -> None:
        """As Textual asks for it."""
        self.set_interval(_TICK, self.tick)
        self.draw()

    def on_resize(self) -> None:
        """As Textual asks for it."""
        self.call_after_refresh(self.draw)  # by then it has the new size

    def tick(self) -> None:
        """Draws, if something is new, and not too often."""
        now = time.monotonic()
        if now >= self._list_at or (now >= self._draw_at and self._source.changed(self.view.drawn)):
            self.draw()

    def draw(self) -> None:
        """Draws what there is now."""
        now, began = time.monotonic(), time.thread_time()
        self._look()
        before = self.view.run
        self._show()
        if self.view.run != before:  # it was not known before which curves are wanted
            self._look()
            self._show()
        cost = time.thread_time() - began
        self._draw_at = now + min(max(_DRAW_EVERY, _SHARE * cost), _DRAW_AT_LEAST_EVERY)
        self._list_at = now + _LIST_EVERY

    def _look(self) -> None:
        known = self._source.look(self.view.drawn)
        runs = self.view.of_list(known.runs)
        of = len(known.runs) if len(runs) < len(known.runs) else None
        self._known = msgspec.structs.replace(known, runs=runs, of=of)

    def _show(self) -> None:
        width, height = self.size
        if width and height:
            self._frame = frame(self._known, self.view, width, height)
            self.board.show(self._frame.lines)
            self._source.show(self._frame.shown)

    def on_key(self, event: events.Key) -> None:
        """As Textual asks for it."""
        event.stop()
        event.prevent_default()
        text = event.character if event.is_printable else None
        if not self.view.press(event.key, [row.key for row in self._known.runs], text):
            self.exit()
            return
        self.draw()

    def on_paste(self, event: events.Paste) -> None:
        """As Textual asks for it."""
        if self.view.typing is not None:
            for character in event.text:
                self.view.press("", [], character)
            self.draw()

    def on_click(self, event: events.Click) -> None:
        """As Textual asks for it."""
        spot = self._spot(event.screen_x, event.screen_y)
        if spot is None:
            return
        if spot.what == "run":
            self.view.run = self._known.runs[spot.which].key
        elif spot.what == "panel":
            self.view.panel = spot.which
        else:
            self.view.alone = not self.view.alone if self.view.chart == spot.which else self.view.alone
            self.view.chart = spot.which
        self.draw()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """As Textual asks for it."""
        self._scroll(event.screen_x, event.screen_y, -1)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """As Textual asks for it."""
        self._scroll(event.screen_x, event.screen_y, 1)

    def _scroll(self, x: int, y: int, by: int) -> None:
        spot = self._spot(x, y)
        if spot is not None and spot.what == "chart":
            self.view.zoom(2.0 if by > 0 else 0.5)
        else:
            self.view.move_run(by, [row.key for row in self._known.runs])
        self.draw()

    def _spot(self, x: int, y: int) -> Spot | None:
        return next(
            (spot for spot in self._frame.spots if spot.top <= y < spot.bottom and spot.left <= x < spot.right), None
        )
