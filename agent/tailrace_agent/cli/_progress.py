"""How far a delivery is: a bar on a terminal, plain lines elsewhere, nothing under `--json`.

Names and problems are foreign text: they are shown as they are, and a terminal obeys nothing that is in them.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import click

from tailrace_agent.cli._app import console, count, print_line
from tailrace_agent.text.quoting import plain

if TYPE_CHECKING:
    from tailrace_agent.cli._deliver import Tick

__all__ = ["Progress"]

_LINE_EVERY: Final = 5.0  # seconds: a CI job's log keeps every line


class Progress:
    """Shows one session after the other. A context manager.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = None if quiet else console(stderr=True)
        self._bar: Any = None
        self._task: Any = None
        self.name = ""
        self._line_at = 0.0
        self._problem: str | None = None

    def __enter__(self) -> Progress:
        if self._console is not None and self._console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[doing]}", style="yellow", markup=False),
                console=self._console,
                transient=True,  # what stays is the line of `report`
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, name: str) -> None:
        """The next session."""
        self.name, self._line_at, self._problem = name, time.monotonic() + _LINE_EVERY, None
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(plain(name), total=None, doing="")

    def tick(self, at: Tick) -> None:
        """How far it is now."""
        if self._bar is not None:
            if at.problem not in (None, self._problem):  # once, not with each tick
                self.print_line(f"{self.name}: {at.problem}", "yellow")
            self._problem = at.problem
            doing = "waiting" if at.problem else plain(at.note or "")
            self._bar.update(self._task, completed=at.done, total=at.total or None, doing=doing)
        elif self._console is not None and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + _LINE_EVERY
            problem = plain(f"waiting: {at.problem}" if at.problem else at.note or "")
            click.echo(
                f"{plain(self.name)}: {at.done:,} of {count(at.total, 'entry', 'entries')}  {problem}".rstrip(),
                err=True,
            )

    def print_line(self, text: str, style: str = "", indent: int = 0) -> None:
        """A line that stays."""
        if self._console is not None:
            print_line(self._console, text, style, indent)
