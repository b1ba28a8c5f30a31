"""Where people read it, in a notebook: in the cell that it is about.

A kernel gives what a thread of its own prints to the cell that runs at that moment, or to the last one that ran; an
older one gives it to the cell in which the thread was started. A program that executes notebooks drops what comes
between two cells. So what tailrace's own threads report is written:

* at once, while a cell runs;
* between two cells: by the next one, if it begins within a moment; else below the last one, for the person before it.

What the agent reports is read where a cell begins and ends, and for a while after one.

Thread safety: every method from any thread; none takes a lock.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from tailrace._messages.outputs import Outputs
from tailrace_agent.runtime.program import notebook_shell

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["Attended", "Cells", "attend", "cells", "has_card"]

_MOMENT: Final = 0.5
"""Seconds that the next cell is waited for: whoever executes a notebook goes on sooner, a person does not."""
_WATCH: Final = 10.0
"""Seconds for which a cell is still reported on, after it has ended."""
_LOOK: Final = 0.05  # seconds
_OWN: Final = "tailrace-"
"""How the names of tailrace's own threads begin."""


class Attended(Protocol):
    """A run, as far as it is needed here."""

    @property
    def status(self) -> str:
        """RUNNING, or how it has ended; reading it prints what has come from the agent."""


class Cells:
    """The cells of the notebook that this process runs.

    Args:
        shell: IPython's, whose events show when a cell begins and ends.

    Attributes:
        outputs: What is shown in cells, and changes there.
    """

    def __init__(self, shell: Any) -> None:
        self._pid = os.getpid()
        self.outputs = Outputs(shell, self._start)
        self._running = True  # whoever needs it first is in a cell
        self._begun = 0
        self._held: deque[Callable[[], None]] = deque()
        self._runs: weakref.WeakSet[Attended] = weakref.WeakSet()
        shell.events.register("pre_run_cell", self._begins)
        shell.events.register("post_run_cell", self._ends)

    @property
    def here(self) -> bool:
        """Whether this process has the cells; a forked child has none."""
        return self._pid == os.getpid()

    def attend(self, run: Attended) -> None:
        """Prints what the agent reports of a run, cell by cell, until it has ended."""
        self._runs.add(run)

    def show(self, write: Callable[[], None]) -> None:
        """Has something written where it belongs.

        Args:
            write: Writes it. Called now, or, of a thread of tailrace's own, soon in another one.
        """
        # A thread of the program prints where its other output goes.
        if not threading.current_thread().name.startswith(_OWN):
            write()
            return
        # Not written by this thread at all: an older kernel would give it to the cell in which the thread was started.
        self._held.append(write)
        self._start(self._soon)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _begins(self, *_: object) -> None:
        self._running = True
        # Ends the watch of the cell before.
        self._begun += 1
        self._catch_up()

    def _ends(self, *_: object) -> None:
        # Before it counts as ended: what is printed now still belongs to it.
        self._catch_up()
        self.outputs.refresh()
        self._running = False
        if self._runs:
            # Most of what the agent finds out comes when a short cell is over.
            self._start(self._watch)

    def _catch_up(self) -> None:
        """Prints what is due by now."""
        self._release()
        # A copy: runs that are collected meanwhile leave a weak set by themselves.
        for run in tuple(self._runs):
            if run.status != "RUNNING":  # reading it prints what has come from the agent
                self._runs.discard(run)

    def _release(self) -> None:
        while self._held:
            try:
                write = self._held.popleft()
            except IndexError:  # another thread was quicker
                return
            write()

    def _start(self, what: Callable[[], None]) -> None:
        """In a thread that the kernel does not take to be of the cell in which it was started."""
        try:
            _thread.start_new_thread(what, ())
        except RuntimeError:  # no thread to be had: the next cell prints it
            return

    def _soon(self) -> None:
        """Prints what is held back, in the next cell if it begins within a moment."""
        deadline = time.monotonic() + _MOMENT
        while not self._running and time.monotonic() < deadline:
            time.sleep(_LOOK)
        self._release()

    def _watch(self) -> None:
        """Prints what is reported of a cell after its end, until another one begins."""
        begun, deadline = self._begun, time.monotonic() + _WATCH
        time.sleep(_MOMENT)
        while self._begun == begun and self._runs and time.monotonic() < deadline:
            self._catch_up()
            time.sleep(_MOMENT)


_cells: list[Cells] = []


def cells() -> Cells | None:
    """The cells of this notebook; None elsewhere, and in a child that was forked from one."""
    if not _cells:
        shell = notebook_shell()
        if shell is None:
            return None
        _cells.append(Cells(shell))
    # A forked child shares the kernel's sockets, and has no cell to print to.
    return _cells[0] if _cells[0].here else None


def has_card(run: int) -> bool:
    """Whether the notebook shows a card of this run, which has its metrics already."""
    found = cells()
    return found is not None and found.outputs.shows(run)


def attend(run: Attended) -> None:
    """In a notebook: prints what the agent reports of this run, cell by cell."""
    found = cells()
    if found is not None:
        found.attend(run)
