"""Which run is the active one, thread by thread, with MLflow's rules where MLflow has them.

A thread's own innermost run comes first. A thread that has started none logs to the main thread's innermost run, or,
where the main thread has none, to the process's only run; so a data loader's or callback's thread just works, while
several threads with runs of their own never get into each other's.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrace._hot import Channel
    from tailrace._run import Run

__all__ = ["Active"]

_PARENT_PROCESS = 0
"""In place of a thread: no thread of this process has started the run."""


class Active:
    """The active runs of one tracker.

    Args:
        idle: The channel that a call without a run gets.

    Attributes:
        pointer: Follows the active channel of the calling thread; `make_log` reads it.

    Thread safety: every method from any thread.
    """

    def __init__(self, idle: Channel) -> None:
        class Pointer(threading.local):
            channel = idle

        self._class = Pointer
        self.pointer = Pointer()
        self._idle = idle
        self._lock = threading.RLock()
        self._joined = idle
        self._runs: list[tuple[int, Run, Channel]] = []

    def push(self, run: Run, channel: Channel) -> None:
        """A run becomes the innermost one of the calling thread. `channel` is closed when it ends."""
        with self._lock:
            self._runs.append((threading.get_ident(), run, channel))
            self.pointer.channel = channel
            self._class.channel = self._shared()

    def remove(self, run: Run) -> None:
        """A run has ended, in whichever thread."""
        with self._lock:
            self._runs = [entry for entry in self._runs if entry[1] is not run]
            self._class.channel = self._shared()
            self.refresh()

    def refresh(self) -> None:
        """Points the calling thread at what is active for it now."""
        with self._lock:
            own = [channel for thread, _, channel in self._runs if thread == threading.get_ident()]
            if own:
                self.pointer.channel = own[-1]
            else:
                self.pointer.__dict__.pop("channel", None)

    def current(self) -> Run | None:
        """The calling thread's active run."""
        with self._lock:
            own = [run for thread, run, _ in self._runs if thread == threading.get_ident()]
            if own:
                return own[-1]
            shared = self._class.channel
            return next((run for _, run, channel in self._runs if channel is shared), None)

    def own(self) -> Run | None:
        """The innermost run that the calling thread itself has started."""
        with self._lock:
            own = [run for thread, run, _ in self._runs if thread == threading.get_ident()]
            return own[-1] if own else None

    def all(self) -> list[Run]:
        """Every active run, innermost last."""
        with self._lock:
            return [run for _, run, _ in self._runs]

    def parent(self) -> Run | None:
        """The run that a nested one belongs to: the thread's own, or the one under which this process was forked."""
        own = self.own()
        if own is not None:
            return own
        with self._lock:
            return next((run for _, run, channel in self._runs if channel is self._joined), None)

    def after_fork(self) -> None:
        """In a forked child: the run that was active goes on, but it is the parent's: the child may start its own."""
        self._lock = threading.RLock()
        self._joined = self.pointer.channel
        self._runs = [(_PARENT_PROCESS, run, channel) for _, run, channel in self._runs]
        self._class.channel = self._shared()
        self.refresh()

    def _shared(self) -> Channel:
        main = threading.main_thread().ident
        of_main = [channel for thread, _, channel in self._runs if thread == main]
        if of_main:
            return of_main[-1]
        if any(channel is self._joined for _, _, channel in self._runs):
            return self._joined
        return self._runs[0][2] if len(self._runs) == 1 else self._idle
