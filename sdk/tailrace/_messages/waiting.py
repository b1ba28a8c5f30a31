"""Waiting for the agent, never without a deadline, and never silently for more than a second.

On a terminal a progress bar that goes away again, in a notebook one line that changes in its cell, elsewhere a plain
line now and then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from tailrace._messages.notebook import cells
from tailrace._messages.outputs import Drawn
from tailrace._messages.voice import on_terminal, print_line
from tailrace_agent.ledger import Counts
from tailrace_agent.text.quoting import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace._messages.outputs import Output
    from tailrace_agent.ipc.status import RunStatus
    from tailrace_agent.ledger import Ledger

__all__ = ["leftover", "progress", "short", "until"]

_SHOW_AFTER = 1.0  # seconds; most waits are shorter
_LINE_AFTER, _MAX_LINE_AFTER = 5.0, 30.0  # seconds; a log file of a job that waits for a day stays short
_ANEW: Final = 1.0  # seconds
_FASTEST, _SLOWEST = 0.002, 0.05  # seconds between two looks at the file


def until(
    look: Callable[[], RunStatus | None],
    done: Callable[[RunStatus], bool],
    *,
    timeout: float,
    nudge: Callable[[], None] | None = None,
    quiet: bool = False,
    new_store: str | None = None,
    below: Callable[[], str | None] = lambda: None,
    trouble: Callable[[], str | None] = lambda: None,
) -> RunStatus | None:
    """Waits until the agent's status meets a condition.

    Args:
        look: Reads the run's status.
        done: Whether that is enough.
        timeout: Seconds.
        nudge: Called once a second, to send again what a killed agent may not have read.
        quiet: Show nothing.
        new_store: A database that MLflow has to create before anything else.
        below: What is still to be done for nested runs, in words; called once a second.
        trouble: What keeps the agent from taking over what is logged, or this program from seeing it; called once a
            second.

    Returns:
        The last status seen, its ledger marked as partial where the time was not enough; None when there was none.
    """
    began = time.monotonic()
    deadline, nudge_at, pause = began + timeout, began + 1.0, _FASTEST
    show = _Progress(quiet, new_store, below, trouble)
    try:
        while True:
            # Before the clock: with a timeout of 0, too, what is there is seen.
            status = look()
            now = time.monotonic()
            if status is not None and done(status):
                return status
            if now >= deadline:
                if status is not None:
                    # The agent may not have read all that was logged: its counts are right, but not of everything.
                    status.ledger.partial = True
                return status
            if nudge is not None and now >= nudge_at:
                nudge()
                nudge_at = now + 1.0
            if now - began >= _SHOW_AFTER:
                show.update(status, now - began, timeout)
            time.sleep(max(0.0, min(pause, deadline - now)))
            pause = min(max(_FASTEST, (now - began) / 10), _SLOWEST)  # late by a tenth of the wait at most
    finally:
        show.close(time.monotonic() - began)


class _Progress:
    """What is shown of a long wait."""

    def __init__(
        self,
        quiet: bool,
        new_store: str | None,
        below: Callable[[], str | None],
        trouble: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._quiet, self._new_store, self._below, self._trouble = quiet, new_store, below, trouble
        self._nested: str | None = None
        self._problem: str | None = None
        self._draws = True
        self._refresh_at = 0.0
        self._bar: Any = None
        self._task: Any = None
        self._line_at, self._line_after = 0.0, _LINE_AFTER
        self._output: Output | None = None

    def update(self, status: RunStatus | None, waited: float, timeout: float) -> None:
        if self._quiet:
            return
        if waited >= self._refresh_at:
            # Once a second: it reads a file for each nested run.
            self._nested, self._problem, self._refresh_at = self._below(), self._trouble(), waited + 1.0
        what = self._problem or _what(status, self._new_store, self._nested)
        text = f"{visible(what)}; waiting {timeout - waited:.0f} s more at most"
        total = status.ledger.total if status is not None else Counts()
        done, wanted = total.delivered, total.delivered + total.pending
        if self._draws and on_terminal():
            try:
                self._draw(done, wanted, text)
            except (ImportError, OSError):  # no descriptor left, say: plain lines then
                self._draws = False
        elif (notebook := cells()) is not None:
            if waited >= self._line_at:
                self._line_at = waited + _ANEW
                self._output = self._output or notebook.outputs.new()
                self._output.show(progress(done, wanted, text))
        elif waited >= self._line_at:
            self._line_at = waited + self._line_after
            self._line_after = min(self._line_after * 2, _MAX_LINE_AFTER)
            print_line(f"{done:,} of {wanted:,} delivered; {text}" if total.pending else text)

    def close(self, waited: float) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._output is not None:
            line = f"tailrace: waited {waited:.0f} s"
            self._output.show(Drawn(f"<small>{line}</small>", line))

    def _draw(self, done: int, total: int, text: str) -> None:
        if self._bar is None:
            from rich.console import Console  # 34 ms, after a second's wait
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("tailrace"),
                BarColumn(),
                MofNCompleteColumn(),
                # An error with brackets in it would be taken for rich's markup.
                TextColumn("{task.description}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(text, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, description=text)


def progress(done: int, wanted: int, text: str) -> Drawn:
    """How far a wait is, as a notebook shows it.

    Args:
        done: What MLflow has.
        wanted: What it is to have.
        text: What is waited for.
    """
    from html import escape  # 1 ms that only a notebook needs

    counted = f"{done:,} of {wanted:,} delivered; " if wanted else ""
    # What every browser draws by itself: no widget, and no script.
    bar = f'<progress value="{done}" max="{wanted}" style="vertical-align:middle;width:140px"></progress> '
    line = f"tailrace: {counted}{text}"
    return Drawn(f"<div>{bar if wanted else ''}<small>{escape(line)}</small></div>", line)


def _what(status: RunStatus | None, new_store: str | None, nested: str | None) -> str:
    """What is waited for."""
    if status is None:
        return "the agent starts"
    if status.problem:
        return f"MLflow does not answer ({short(status.problem)})"
    if not status.run_id:
        return "MLflow creates the run" if new_store is None else f"MLflow creates its database {new_store}, once"
    if nested is not None:
        return f"MLflow takes {nested}"
    if 0 < status.ledger.pending <= status.computing:
        return "a GPU computes what is left"
    if status.ledger.pending:
        return "MLflow takes what is left"
    return "the agent catches up" if status.status == "RUNNING" else "MLflow stores the run's end"


def short(text: str, most: int = 120) -> str:
    """The first line of a text, cut to a length."""
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= most else line[: most - 1] + "…"


def leftover(ledger: Ledger) -> str:
    """What is left, in words: `1,234 points and 2 artifacts`."""
    names = {"metric": "point", "param": "param", "tag": "tag", "artifact": "artifact"}
    parts = [
        f"{n:,} {name}{'s' if n != 1 else ''}" for kind, name in names.items() if (n := ledger.of(kind).pending) > 0
    ]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "nothing"
