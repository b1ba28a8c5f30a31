"""How far a training is: a bar on a terminal and in a notebook, a line for each epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from tailrace.training.pytorch.bars import NotebookBar, TerminalBar, is_terminal
from tailrace_agent.runtime.program import notebook_shell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.training.pytorch.bars import Bar

__all__ = ["Progress"]

_SHOWN = 6


class Progress:
    """Shows a training's progress, on stderr or below the cell of a notebook. What cannot be shown stops nothing.

    Args:
        epochs: How many there are.
        wanted: Whether anything is shown.
        warns: Whether warnings are, with or without the rest.
    """

    def __init__(self, epochs: int, *, wanted: bool, warns: bool = True) -> None:
        self._epochs, self._wanted, self._warns = epochs, wanted, warns
        self._notebook = notebook_shell() is not None
        self._bar: Bar | None = None
        self._done = 0
        self._next = 0.0

    def begin(self, epoch: int, steps: int | None) -> None:
        """An epoch of so many steps begins; None: nobody knows how many."""
        if not self._wanted:
            return
        self._done, self._next = 0, 0.0
        if self._bar is None and (self._notebook or is_terminal(sys.stderr)):
            self._bar = NotebookBar() if self._notebook else TerminalBar()
        if self._bar is not None:
            self._bar.begin(f"epoch {epoch}/{self._epochs}", steps)

    def step(self) -> None:
        """A step is done."""
        self._done += 1
        if self._bar is None:
            return
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._bar.every
            self._bar.update(self._done)

    def end(self, epoch: int, metrics: Mapping[str, float], seconds: float, *, best: bool) -> None:
        """The epoch is over: its line stays."""
        if not self._wanted:
            return
        self.close()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:_SHOWN])
        self.say(f"epoch {epoch}/{self._epochs}  {shown}  {seconds:.1f} s{'  (best so far)' if best else ''}")

    def say(self, line: str) -> None:
        """A line for the user."""
        if self._wanted:
            # What is written to stderr looks like an error in a notebook.
            _print(line, sys.stdout if self._notebook else sys.stderr)

    def warn(self, line: str) -> None:
        """A line that the user needs, also where no progress is wanted."""
        if self._warns:
            _print(line, sys.stderr)

    def close(self) -> None:
        """No more is done, until another epoch begins."""
        if self._bar is not None:
            self._bar.end(self._done)


def _print(line: str, to: TextIO | None) -> None:
    try:
        print(f"tailrace: {line}", file=to, flush=True)
    except (AttributeError, ValueError, OSError):
        return
