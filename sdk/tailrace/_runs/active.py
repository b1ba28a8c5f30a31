"""Which run is the active one: that of the thread or asyncio task, with MLflow's rules where MLflow has them.

A run that is started becomes the innermost one of its *context* (`contextvars`): of its thread, of its asyncio task
and of the tasks that this one creates, of what `asyncio.to_thread` runs. A context without a run of its own logs to
the *shared* one: the innermost run of the main thread, as far as there is only one (below that, tasks have begun runs
side by side), or the process's only run. So a data loader's or callback's thread just works, while threads and tasks
with runs of their own never get into each other's.
"""

from __future__ import annotations

import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tailrace._log.channel import Channel
    from tailrace._runs.core import RunCore

__all__ = ["Active"]


class _Entry(NamedTuple):
    """An active run: its channel, whether the main thread has begun it, and whether this very process has."""

    run: RunCore
    channel: Channel
    main: bool
    ours: bool


class _Pointer:
    """What `make_log` follows."""

    __slots__ = ("home", "own", "shared")

    own: ContextVar[Channel | None] | None

    def __init__(self, home: object, own: ContextVar[Channel | None], shared: Channel) -> None:
        self.home, self.own, self.shared = home, own, shared


class Active:
    """The active runs of one tracker.

    Args:
        idle: The channel that a call without a run gets.
        home: Whose `log` it is.

    Attributes:
        pointer: Knows the active channel of the caller; `make_log` reads it.

    Thread safety: every method from any thread.
    """

    def __init__(self, idle: Channel, home: object = None) -> None:
        self._own: ContextVar[Channel | None] = ContextVar("tailrace_run", default=None)
        self.pointer = _Pointer(home, self._own, idle)
        self._idle = idle
        self._lock = threading.RLock()
        self._joined = idle
        self._entries: dict[Channel, _Entry] = {}
        # Of ended runs, too, as long as a context may still point at them.
        self._outer: weakref.WeakKeyDictionary[Channel, Channel | None] = weakref.WeakKeyDictionary()

    def push(self, run: RunCore, channel: Channel) -> None:
        """A run becomes the innermost one of the calling context. `channel` is closed when it ends."""
        main = threading.current_thread() is threading.main_thread()
        with self._lock:
            # Before the channel itself is the innermost one.
            self._outer[channel] = self._innermost()
            self._entries[channel] = _Entry(run, channel, main, ours=True)
            self._own.set(channel)
            self.pointer.shared = self._shared()

    def join(self, run: RunCore, channel: Channel) -> None:
        """A run of another process becomes the one of all contexts of this one that have none of their own."""
        with self._lock:
            # Nothing is around it here: what it is nested in is the other process's.
            self._outer[channel] = None
            self._entries[channel] = _Entry(run, channel, main=False, ours=False)
            self._joined = channel
            self.pointer.shared = self._shared()

    def remove(self, run: RunCore) -> None:
        """A run has ended, in whichever context."""
        with self._lock:
            for channel in [channel for channel, entry in self._entries.items() if entry.run is run]:
                del self._entries[channel]
            self.pointer.shared = self._shared()
            # Only the calling context can be changed; any other one finds out by the closed channel.
            self.refresh()

    def refresh(self) -> None:
        """Points the calling context at what is active for it now."""
        with self._lock:
            self._own.set(self._innermost())

    def current(self) -> RunCore | None:
        """The run that a call in this context means."""
        with self._lock:
            # The shared one may be the idle channel, which has no entry.
            entry = self._entries.get(self._innermost() or self.pointer.shared)
            return entry.run if entry is not None else None

    def own(self) -> RunCore | None:
        """The innermost run that this context itself has started, in this process."""
        with self._lock:
            channel = self._innermost()
            return self._entries[channel].run if channel is not None and self._entries[channel].ours else None

    def all(self) -> list[RunCore]:
        """Every active run, innermost last."""
        with self._lock:
            return [entry.run for entry in self._entries.values()]

    def channels(self) -> list[tuple[RunCore, Channel]]:
        """Every active run with its channel."""
        with self._lock:
            return [(entry.run, entry.channel) for entry in self._entries.values()]

    def after_fork(self) -> None:
        """In a forked child: the run that was active goes on, but it is the parent's: the child may start its own."""
        # A fresh one: a thread that held it when the process forked does not exist here.
        self._lock = threading.RLock()
        # The forked thread's own run, and not that of the parent's main thread.
        self._joined = self._innermost() or self.pointer.shared
        self._entries = {channel: entry._replace(ours=False) for channel, entry in self._entries.items()}
        self.pointer.shared = self._shared()

    def _innermost(self) -> Channel | None:
        """The innermost channel of this context whose run is still active."""
        channel = self._own.get()
        while channel is not None and channel not in self._entries:
            # A run may end before one that was begun in it, in another context.
            channel = self._outer.get(channel)
        return channel

    def _shared(self) -> Channel:
        found: Channel | None = None
        main = {
            channel: self._outer.get(channel) for channel, entry in self._entries.items() if entry.ours and entry.main
        }
        # From the outermost run inwards, for as long as there is no doubt which one is meant.
        below = [channel for channel, outer in main.items() if outer not in main]
        while len(below) == 1:
            found = below[0]
            below = [channel for channel, outer in main.items() if outer is found]
        if found is not None:
            return found
        # After the main thread's own: a child that has begun a run of its own means that one.
        if self._joined in self._entries:
            return self._joined
        return next(iter(self._entries)) if len(self._entries) == 1 else self._idle
