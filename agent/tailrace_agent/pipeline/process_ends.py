"""When processes of others end, and how: a thread sleeps in the kernel until one does, and looks before its parent.

A parent that asks for an exit code takes it away from everybody else. Launchers ask every tenth of a second or so, and
until they have, the kernel shows it in /proc to whoever is the same user. So the thread is woken by a pidfd, and often
comes first. Where it does not, a kernel from 6.15 on still tells it through the pidfd; on older ones, or where there
are no pidfds, only that the process is gone is known.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time

from tailrace_agent.runtime.originals import start_thread
from tailrace_agent.runtime.processes import Fate, Process, fate_of, is_alive

__all__ = ["ProcessEnds"]


class ProcessEnds:
    """The ends of some processes.

    Thread safety: every method from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._poll: select.epoll | None = None
        self._watched: dict[int, Process] = {}
        self._known: set[Process] = set()
        self._ended: dict[Process, tuple[Fate, int]] = {}

    def of(self, process: Process) -> tuple[Fate, int] | None:
        """How a process ended, and when (milliseconds since the epoch); None while it runs. Watches it from now on."""
        with self._lock:
            ended = self._ended.get(process)
            if ended is not None:
                return ended
            if process not in self._known:
                self._known.add(process)
                self._watch(process)
            elif process in self._watched.values():  # the thread says it
                return None
        if is_alive(process):
            return None
        return self._end(process)

    def _end(self, process: Process, pidfd: int | None = None) -> tuple[Fate, int]:
        found = fate_of(process, pidfd), time.time_ns() // 1_000_000
        with self._lock:
            return self._ended.setdefault(process, found)

    def _watch(self, process: Process) -> None:
        opened = getattr(os, "pidfd_open", None)
        if opened is None or not process.began:
            return
        with contextlib.suppress(OSError):  # it is gone, in another container, or the kernel is old
            fd = opened(process.pid)
            if not is_alive(process):  # the id is another one's by now
                os.close(fd)
                return
            self._watched[fd] = process
            if self._poll is None:
                self._poll = select.epoll()
                start_thread(self._look, "tailrace-process-ends")
            self._poll.register(fd, select.EPOLLIN)

    def _look(self) -> None:
        poll = self._poll
        assert poll is not None
        while True:
            for fd, _ in poll.poll():
                with self._lock:
                    process = self._watched[fd]
                # First: it is still there for as long as the descriptor is.
                self._end(process, fd)
                with self._lock:
                    poll.unregister(fd)
                    del self._watched[fd]
                    os.close(fd)
