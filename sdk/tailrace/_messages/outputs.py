"""Outputs of a notebook's cells that change in place: a run's card while it runs, one line while something is awaited.

An output has an id, and whoever shows the notebook (Jupyter, VS Code, Colab, a program that executes it) replaces what
it holds: no script and no widget. A program that executes notebooks takes such a change from the cell that runs, so
each output is drawn once more, by the cell's own thread, where a cell ends.

Thread safety: every method from any thread.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Drawn", "Output", "Outputs"]

_EVERY: Final = 1.0
"""Seconds between two looks at what is shown; what has not changed is not sent."""
_MOST: Final = 50
"""Outputs that change: of a search with a thousand trials the last ones."""
_MOST_ABOUT: Final = 10_000
_BRIEFLY: Final = 1.0  # seconds: for the lock of one output, which is held while it is drawn

_numbers = itertools.count()


class Drawn(NamedTuple):
    """What an output shows.

    Attributes:
        html: For those who can show it.
        text: For all others.
        over: Whether it never changes any more.
    """

    html: str
    text: str
    over: bool = False


class Output:
    """One output, in the cell that runs when it is shown first.

    Args:
        shell: IPython's.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._id = f"tailrace-{os.getpid()}-{next(_numbers)}"
        self._last: Drawn | None = None

    def show(self, drawn: Drawn) -> None:
        """Shows this from now on; a kernel that shows nothing any more is nobody's problem."""
        if self._last is not None and self._last[:2] == drawn[:2]:
            return
        again, self._last = self._last is not None, drawn
        data = {"text/html": drawn.html, "text/plain": drawn.text}
        with contextlib.suppress(Exception):  # whatever stands in the place of its publisher may raise anything
            self._shell.display_pub.publish(data=data, metadata={}, transient={"display_id": self._id}, update=again)


class _Kept:
    """An output that is drawn anew until it is over."""

    def __init__(self, output: Output, draw: Callable[[], Drawn]) -> None:
        self._output, self._draw = output, draw
        self._lock = threading.Lock()  # or an older drawing might come after a newer one

    def refresh(self) -> bool:
        """Draws it anew; whether it is over."""
        if not self._lock.acquire(timeout=_BRIEFLY):
            return False
        try:
            drawn = self._draw()
            self._output.show(drawn)
        finally:
            self._lock.release()
        return drawn.over


class Outputs:
    """Those of one notebook.

    Args:
        shell: IPython's.
        start: Runs a function in a thread that belongs to no cell.
    """

    def __init__(self, shell: Any, start: Callable[[Callable[[], None]], None]) -> None:
        self._shell, self._start, self._pid = shell, start, os.getpid()
        self._kept: list[_Kept] = []
        self._about: set[object] = set()
        self._drawing = False

    def new(self) -> Output:
        """One that its owner draws."""
        return Output(self._shell)

    def shows(self, about: object) -> bool:
        """Whether there is an output about this."""
        return about in self._about

    def keep(self, draw: Callable[[], Drawn], about: object) -> None:
        """Shows something here, and draws it anew until it is over.

        Args:
            draw: Draws it. Called now, from a thread of its own, and where a cell ends.
            about: What it is about, for `shows`.

        Raises:
            Exception: What `draw` raises at once; what it raises later ends that output.
        """
        if len(self._about) < _MOST_ABOUT:
            self._about.add(about)
        kept = _Kept(self.new(), draw)
        if kept.refresh():
            return
        self._kept = [*self._kept[1 - _MOST :], kept]
        if not self._drawing:
            self._drawing = True
            self._start(self._redraw)

    def refresh(self) -> None:
        """Draws anew what has changed."""
        for kept in self._kept:
            over = True
            try:
                over = kept.refresh()
            except Exception:  # noqa: BLE001 - a card that cannot be drawn stays as it is, and disturbs nobody
                over = True
            if over:
                self._kept = [each for each in self._kept if each is not kept]

    def _redraw(self) -> None:
        while self._kept and self._pid == os.getpid():
            time.sleep(_EVERY)
            self.refresh()
        self._drawing = False
