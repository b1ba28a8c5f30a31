"""Bars that show how far an epoch is: on a terminal, and below the cell of a notebook."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

__all__ = ["Bar", "NotebookBar", "TerminalBar", "is_terminal"]


class Bar(Protocol):
    """Shows an epoch at a time.

    Attributes:
        every: Seconds between two updates that are of use.
    """

    every: float

    def begin(self, label: str, steps: int | None) -> None:
        """An epoch of so many steps begins; None: nobody knows how many."""

    def update(self, done: int) -> None:
        """So many are done."""

    def end(self, done: int) -> None:
        """The epoch is over, or has been ended."""


class TerminalBar:
    """A line that goes away when the epoch is over. Drawn by rich, in a thread of its own."""

    every = 0.1

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None

    def begin(self, label: str, steps: int | None) -> None:
        """An epoch of so many steps begins; None: nobody knows how many."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=1 / self.every,
            redirect_stdout=is_terminal(sys.stdout),  # what is written to a file or a pipe is not for stderr
        )
        self._task = self._bar.add_task(label, total=steps)
        self._bar.start()

    def update(self, done: int) -> None:
        """So many are done."""
        self._bar.update(self._task, completed=done)

    def end(self, done: int) -> None:  # noqa: ARG002 - it goes away
        """The epoch is over, or has been ended."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class NotebookBar:
    """One place below the cell, which is drawn over again and stays, as a notebook that is saved shows it.

    It is HTML, with a text for what shows none. Widgets would need a package of their own, and leave an empty place for
    each epoch.
    """

    every = 0.2  # a message to the browser takes a quarter of a millisecond

    def __init__(self) -> None:
        self._handle: Any = None
        self._label, self._began = "", 0.0
        self._steps: int | None = None

    def begin(self, label: str, steps: int | None) -> None:
        """An epoch of so many steps begins; None: nobody knows how many."""
        self._label, self._steps, self._began = label, steps, time.monotonic()
        self._draw(0, over=False)

    def update(self, done: int) -> None:
        """So many are done."""
        self._draw(done, over=False)

    def end(self, done: int) -> None:
        """The epoch is over, or has been ended."""
        if self._label:
            self._draw(done, over=True)
            self._label = ""

    def _draw(self, done: int, *, over: bool) -> None:
        spent = time.monotonic() - self._began
        steps = self._steps
        text = f"{self._label}  {done}" if steps is None else f"{self._label}  {done}/{steps}"
        if over:
            text += f"  {_clock(spent)}"
        elif steps is not None and done:
            text += f"  {_clock(spent / done * max(0, steps - done))} left"
        filled = f' value="{done}" max="{max(1, steps)}"' if steps is not None else ""
        bar = "" if over and steps is None else f"<progress{filled}></progress> "  # one without a value moves for ever
        self._show({"text/plain": text, "text/html": f"{bar}<code>{text}</code>"})

    def _show(self, data: dict[str, str]) -> None:
        try:
            if self._handle is not None:
                self._handle.update(data, raw=True)
                return
            import IPython.display

            untyped: Any = IPython.display
            self._handle = untyped.display(data, raw=True, display_id=True)
        except Exception:  # noqa: BLE001 - the browser, or what stands between, is gone: training goes on
            return


def is_terminal(stream: Any) -> bool:
    """Whether a bar can be drawn there."""
    try:
        return stream is not None and bool(stream.isatty())
    except (AttributeError, ValueError, OSError):  # replaced by something that is no file, or closed
        return False


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
