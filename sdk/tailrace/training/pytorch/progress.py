"""How far a training is: a bar on a terminal and in a notebook, a line for each epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Progress"]

_EVERY = 0.1
_SHOWN = 6


class Progress:
    """Shows a training's progress on stderr. What cannot be shown stops nothing.

    Args:
        epochs: How many there are.
        wanted: Whether anything is shown.
        warns: Whether warnings are, with or without the rest.
    """

    def __init__(self, epochs: int, *, wanted: bool, warns: bool = True) -> None:
        self._epochs, self._wanted, self._warns = epochs, wanted, warns
        self._bar: Any = None
        self._task: Any = None
        self._done = 0
        self._next = 0.0

    def begin(self, epoch: int, steps: int | None) -> None:
        """An epoch of so many steps begins; None: nobody knows how many."""
        if not self._wanted:
            return
        self._done, self._next = 0, 0.0
        if _live():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = TextColumn("epoch {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True, refresh_per_second=1 / _EVERY)
            self._task = self._bar.add_task(f"{epoch}/{self._epochs}", total=steps)
            self._bar.start()

    def step(self) -> None:
        """A step is done."""
        self._done += 1
        if self._bar is None:
            return
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY
            self._bar.update(self._task, completed=self._done)

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
            _print(f"tailrace: {line}")

    def warn(self, line: str) -> None:
        """A line that the user needs, also where no progress is wanted."""
        if self._warns:
            _print(f"tailrace: {line}")

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _live() -> bool:
    """Whether a bar can be drawn: on a terminal, or by a notebook."""
    shell = sys.modules.get("IPython")
    if shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None:
        return True
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except (AttributeError, ValueError, OSError):  # replaced by something that is no file, or closed
        return False


def _print(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress is what it is for
    except (AttributeError, ValueError, OSError):
        return
