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
from typing import TYPE_CHECKING, NamedTuple

from tailrace_agent.console import forks, tee
from tailrace_agent.runtime import interpreter
from tailrace_agent.runtime.detached import start_detached

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TeeProcess", "start_tee"]

_ABOVE = 32
"""Descriptors from here on are in nobody's way while others are put in their places."""


class TeeProcess(NamedTuple):
    """A tee, as the program speaks to it.

    Attributes:
        control: Socket: what is said there is in `tee`. At its end the tee takes the program for gone.
        answers: Readable end: see `tee`. At its end the tee is gone.
        group: Its process group, which nobody else has; 0 for a thread of the program.
        begun: It is at work for certain: its first word need not be waited for.
    """

    control: int
    answers: int
    group: int
    begun: bool = False

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


def start_tee(
    directory: Path,
    limit: int,
    streams: Sequence[tuple[int, int]],
    *,
    keys: bool = False,
    beside: Path | None = None,
) -> TeeProcess:
    """Starts one.

    Args:
        directory: Where it keeps what it reads; it is there.
        limit: Bytes that it keeps.
        streams: For each stream where it is read, and where it goes.
        keys: The keys of a terminal among them are to reach who reads them at its pty.
        beside: Socket of the tees of this node's processes: one that is asked there forks, which takes a fifth of the
            memory, and the first one is asked from now on.

    Raises:
        OSError: No process can be started, or no descriptor is left.
    """
    words = [str(directory), *_numbers(limit, streams, keys=keys)]
    if beside is None:
        return _started(words, streams, None)
    listener = None
    with contextlib.suppress(OSError):  # then another one is started
        try:
            return _forked(words, streams, str(beside))
        except TimeoutError:  # it is there, and waits for its reader
            raise
        except OSError:  # nobody is there to be asked
            listener = forks.listening(str(beside))
            if listener is None:  # by now somebody is: another rank, which has begun at the same moment
                return _forked(words, streams, str(beside))
    try:
        return _started(words, streams, listener)
    finally:
        if listener is not None:
            listener.close()


def _forked(words: Sequence[str], streams: Sequence[tuple[int, int]], beside: str) -> TeeProcess:
    with _Ends() as ends:
        fds = [*ends.theirs, *(fd for stream in streams for fd in stream)]
        found = TeeProcess(*ends.ours, forks.ask(beside, words, fds), begun=True)
        ends.keep()
    return found


def _started(words: Sequence[str], streams: Sequence[tuple[int, int]], listener: _socket.socket | None) -> TeeProcess:
    with _Ends() as ends:
        given = [fd for stream in streams for fd in stream] + ([] if listener is None else [listener.fileno()])
        wanted = [*ends.theirs, *(ends.copy(fd) for fd in given)]
        files: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)
        ]
        first = tee.FIRST_STREAM - 2
        files += [(os.POSIX_SPAWN_DUP2, fd, first + place) for place, fd in enumerate(wanted)]
        command = [sys.executable, "-IS", tee.__file__, *words, str(int(listener is not None))]
        found = TeeProcess(*ends.ours, start_detached(command, interpreter.environment(), files))
        ends.keep()
    return found


class _Ends:
    """Of control and answers: those of a tee, which are closed here, and the program's, which are if nobody keeps them.

    Attributes:
        theirs, ours: Control and answers.
    """

    def __init__(self) -> None:
        self._given, self._kept = contextlib.ExitStack(), contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            ours, theirs = (self._closed(end.detach()) for end in _socket.socketpair())
            heard, said = map(self._closed, os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe())
            self.theirs = self.copy(theirs), self.copy(said)
            self.ours = self._held(ours), self._held(heard)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._given.close()
        self._kept.close()

    def copy(self, fd: int) -> int:
        """A copy for the tee, closed here at the end."""
        return self._closed(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE))

    def keep(self) -> None:
        """The tee is there: the program's ends stay."""
        self._kept.pop_all()

    def _closed(self, fd: int) -> int:
        self._given.callback(os.close, fd)
        return fd

    def _held(self, fd: int) -> int:
        held = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        self._kept.callback(os.close, held)
        return held
