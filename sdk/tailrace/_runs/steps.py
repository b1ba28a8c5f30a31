"""The counter of a run, for calls without a step: 0, 1, 2, …, one for all processes that log to the run.

It is a word in shared memory, which is made with the first such call. Without the hot path in C the program that has
begun the run counts for itself, and its children count together: taking turns with other processes costs a system call.

Thread safety: all of it from any thread and any process.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import weakref
from typing import TYPE_CHECKING

from tailrace._session.run_page import map_words
from tailrace_agent.files.descriptors import SPARE
from tailrace_agent.files.ownership import open_own
from tailrace_agent.ipc import native

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tailrace._log.channel import Channel

__all__ = ["Steps"]


class Steps:
    """The counter of one run in this process.

    Args:
        shared: The session's directory in shared memory.
        run: tailrace's id of the run.
        joined: Whether another process has begun it.
        rank: Which process of a job counts.
    """

    def __init__(self, shared: Path, run: int, *, joined: bool, rank: int = 0) -> None:
        # Ranks do the same steps side by side; the children of one of them count with it.
        self._path = shared / f"run-{run:016x}{f'-rank{rank}' if rank else ''}.steps"
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        # Without C a shared counter takes a system call a step, which the program that begins a run is spared.
        alone = native.Steps is None and not joined
        self._counter: Iterator[int] | None = itertools.count() if alone else None
        _all.add(self)

    def count_for(self, channel: Channel) -> None:
        """From now on the channel's calls without a step take their step from here."""
        self._channels.add(channel)
        # The page is made with the first call: most runs give a step with each of theirs.
        channel.steps = self if self._counter is None else self._counter

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> int:
        """The first step; the channels then use the counter itself."""
        if self._counter is None:
            try:
                shared = native.Steps
                with SPARE.lent():
                    words = map_words(self._path, 8)
                self._counter = _SharedInPython(self._path, words) if shared is None else shared(words)
            except OSError:  # no room in shared memory, or it went away with the session
                # Steps of several processes may be the same then; the values are all there.
                self._counter = itertools.count()
        for channel in self._channels:
            if channel.steps is self:  # and is not closed
                channel.steps = self._counter
        return next(self._counter)

    def after_fork(self) -> None:
        """In a forked child: from now on with the others."""
        # A counter in shared memory is the same one in the child.
        if not isinstance(self._counter, itertools.count):
            return
        counter, self._counter = self._counter, None
        for channel in self._channels:
            if channel.steps is counter:
                channel.steps = self


class _SharedInPython:
    """What `native.Steps` does, with a system call."""

    def __init__(self, path: Path, word: memoryview) -> None:
        self._path, self._word = path, word

    def __iter__(self) -> _SharedInPython:
        return self

    def __next__(self) -> int:
        # Opened anew each time: descriptors that were inherited through a fork share one lock.
        try:
            fd = open_own(self._path, os.O_RDWR)
        except OSError:  # no descriptor left: two processes may count one step at the same time
            fd = -1
        try:
            if fd >= 0:
                # It falls with the descriptor, also where the process dies in between.
                fcntl.flock(fd, fcntl.LOCK_EX)
            before = self._word[0]
            self._word[0] = before + 1
            return before
        finally:
            if fd >= 0:
                os.close(fd)


_all: weakref.WeakSet[Steps] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for steps in list(_all):
        steps.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
