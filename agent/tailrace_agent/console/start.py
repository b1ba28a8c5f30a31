"""How a program gets its tee: a process of its own, started with the descriptors between which it stands.

Thread safety: every function from any thread.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import os
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tailrace_agent.console import tee
from tailrace_agent.runtime import interpreter
from tailrace_agent.runtime.detached import start_detached

__all__ = ["TeeProcess", "start_tee"]

_ABOVE = 32
"""Descriptors from here on are in nobody's way while others are put in their places."""


class TeeProcess(NamedTuple):
    """A tee, as the program speaks to it.

    Attributes:
        control: Socket: what is said there is in `tee`. At its end the tee takes the program for gone.
        answers: Readable end: see `tee`. At its end the tee is gone.
        group: Its process group, which nobody else has.
    """

    control: int
    answers: int
    group: int

    def say(self, said: bytes, fds: Sequence[int] = ()) -> None:
        """Says something.

        Raises:
            OSError: The tee is gone, or listens no more.
        """
        given = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", fds))] if fds else []
        control = _socket.socket(fileno=self.control)
        try:
            control.sendmsg([said], given, getattr(_socket, "MSG_NOSIGNAL", 0) | _socket.MSG_DONTWAIT)
        finally:
            control.detach()

    def begin(self, directory: Path, limit: int, streams: Sequence[tuple[int, int]], *, keys: bool = False) -> None:
        """Has it serve another run, after the end of the one before; arguments as for `start_tee`.

        Raises:
            OSError: The tee is gone, or listens no more.
        """
        place = os.fsencode(directory)
        if b"\n" in place:
            raise OSError(errno.EINVAL, "no such directory can be said", str(directory))
        about = _numbers(limit, streams, keys=keys)
        self.say(b"%s %s %s\n" % (tee.BEGIN, " ".join(about).encode(), place), [fd for pair in streams for fd in pair])

    def close(self) -> None:
        """The program has no more to say to it."""
        for fd in (self.control, self.answers):
            with contextlib.suppress(OSError):
                os.close(fd)


def _numbers(limit: int, streams: Sequence[tuple[int, int]], *, keys: bool) -> list[str]:
    return [str(number) for number in (limit, os.getpid() if keys else 0, os.getpgrp(), len(streams))]


def start_tee(directory: Path, limit: int, streams: Sequence[tuple[int, int]], *, keys: bool = False) -> TeeProcess:
    """Starts one.

    Args:
        directory: Where it keeps what it reads; it is there.
        limit: Bytes that it keeps.
        streams: For each stream where it is read, and where it goes.
        keys: The keys of a terminal among them are to reach who reads them at its pty.

    Raises:
        OSError: No process can be started, or no descriptor is left.
    """
    with contextlib.ExitStack() as opened:

        def high(fd: int) -> int:
            copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE)
            opened.callback(os.close, copy)
            return copy

        def moved(ends: tuple[int, int]) -> tuple[int, int]:
            with contextlib.ExitStack() as original:
                for end in ends:
                    original.callback(os.close, end)
                return high(ends[0]), high(ends[1])

        ours, theirs = _socket.socketpair()
        control = moved((theirs.detach(), ours.detach()))
        answers = moved(os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe())
        wanted = [control[0], answers[1], *(high(fd) for stream in streams for fd in stream)]
        files: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)
        ]
        first = tee.FIRST_STREAM - 2
        files += [(os.POSIX_SPAWN_DUP2, fd, first + place) for place, fd in enumerate(wanted)]
        command = [
            sys.executable,
            "-IS",
            tee.__file__,
            str(directory),
            *_numbers(limit, streams, keys=keys),
        ]
        group = start_detached(command, interpreter.environment(), files)
        kept = fcntl.fcntl(control[1], fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            return TeeProcess(kept, fcntl.fcntl(answers[0], fcntl.F_DUPFD_CLOEXEC, 3), group)
        except OSError:
            os.close(kept)
            raise
