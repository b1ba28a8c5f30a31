"""Standard output and error, led through a tee: at their descriptors, so that children and C code come along.

A terminal becomes a pty, so that who asks still finds a terminal, anything else a pipe; where both go to the same place
they are one stream, and keep their order. What is printed is in the kernel at once and in the tee's file a moment
later, whatever becomes of this process.

The reading ends stay open here, too: so a tee that is killed takes nothing along, and nobody gets a SIGPIPE until there
is another one. Where none can be had, a thread of this process does its work.

A tee that has handed on all of a run waits for the next one of this process, which brings streams of its own.
"""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace_agent.console.start import TeeProcess, start_tee
from tailrace_agent.console.tee import ANSWER_BROKEN, ANSWER_DRAINED, ANSWER_LOST, END, Segments, Stream, Tee
from tailrace_agent.runtime.originals import original, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Capture", "active"]

_OUTPUTS: Final = (1, 2)
_DRAIN: Final = 5.0
"""Seconds for which the end waits at most until all is where it would have gone: its reader may be stopped."""
_FIRST_WORD: Final = 2.0
"""Seconds for which a tee may be silent: with the end's wait behind it, what was printed meanwhile still arrives."""
_RESTARTS: Final = 3
_PER: Final = 60.0
"""Tees that are started anew within so many seconds; after that a thread does it."""

_active: Capture | None = None
_resting: _Resting | None = None
_lock = threading.Lock()


class _Way(NamedTuple):
    """One stream.

    Attributes:
        fds: The descriptors that are led through it: 1, 2 or both.
        source: Where it is read.
        entry: Identity of what stands in their places.
        target: Where it goes.
        originals: What stood there before, by descriptor.
    """

    fds: tuple[int, ...]
    source: int
    entry: tuple[int, int, int]
    target: int
    originals: dict[int, int]


class _Resting(NamedTuple):
    """A tee that waits for the next run.

    Attributes:
        tee: It.
        identities: Of its descriptors: one that closes what it does not know, as daemons do, has others by now.
    """

    tee: TeeProcess
    identities: tuple[tuple[int, int, int], ...]


def active() -> Capture | None:
    """The capture of this process."""
    return _active


class Capture:
    """The output of this process while a run lasts; see `begin`.

    Thread safety: every method from any thread.
    """

    def __init__(self, directory: Path, limit: int, warn: Callable[[str], None], beside: Path | None) -> None:
        self._directory, self._limit, self._warn, self._beside = directory, limit, warn, beside
        self._pid = os.getpid()
        self._ways: list[_Way] = []
        self._tee: TeeProcess | None = None
        self._keys = True
        self._drained = threading.Event()
        self._ended = False
        self._left = False  # the end has come without it
        self._started: list[float] = []
        self._heard = 0  # the group of the tee that has said a word
        self._buffered: list[Any] = []
        self._lock = threading.Lock()  # around the tee's descriptors: a number that is given back is another's

    @classmethod
    def begin(
        cls, directory: Path, limit: int, warn: Callable[[str], None], beside: Path | None = None
    ) -> Capture | None:
        """Captures from now on; None where this process has a capture, or nothing that could be captured.

        Args:
            directory: Where the tee keeps it; it is there.
            limit: Bytes that are kept.
            warn: Called with what does not work.
            beside: Where the tees of this node's processes are asked for another one, see `start_tee`.
        """
        global _active
        with _lock:
            if _active is not None:
                return None
            capture = cls(directory, limit, warn, beside)
            try:
                capture._begin()
            except (OSError, RuntimeError) as error:
                capture._give_back()
                warn(f"what this program prints is not kept: {getattr(error, 'strerror', None) or error}")
                return None
            if not capture._ways:
                return None
            _active = capture
            return capture

    def end(self, timeout: float) -> None:
        """Puts everything back as it was, and waits until what was printed is where it would have gone.

        While its reader reads nothing (a pager, a terminal that was stopped) it is not: then the way through the tee
        stays, since what is printed from now on would overtake the rest.

        Args:
            timeout: Seconds, of which it takes five at most.
        """
        global _active
        with _lock:
            if self._ended or self._pid != os.getpid():
                return
            self._ended = True
            _active = None
        entries = self._entries()
        self._put_back()
        self._ask()
        with contextlib.suppress(KeyboardInterrupt):  # it ends the wait
            self._drained.wait(max(0.0, min(timeout, _DRAIN)))
        with self._lock:
            self._left = not self._drained.is_set()
        if self._left:
            self._lead_back(entries)
        else:
            self._rest_tee()
        _close(*entries.values())
        # The tee has its own; who goes on printing is served by it until the last one has closed the stream.
        self._let_go()

    # -- beginning -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        _flush()
        entries = []
        try:
            for fds in _streams():
                way, entry = _way(fds)
                self._ways.append(way)
                entries.append(entry)
            if not self._ways:
                return
            # Of one that gives single keys already somebody is in charge.
            self._keys = all(map(_gives_lines, (way.target for way in self._ways)))
            self._start()
            for way, entry in zip(self._ways, entries, strict=True):
                for fd in way.fds:
                    os.dup2(entry, fd, inheritable=True)
        finally:
            _close(*entries)
        # Without a terminal Python would keep lines to itself until there are many: those a SIGKILL takes along.
        for stream in (sys.stdout, sys.stderr):
            if getattr(stream, "line_buffering", True) is False and hasattr(stream, "reconfigure"):
                stream.reconfigure(line_buffering=True)
                self._buffered.append(stream)
        start_thread(self._watch, "tailrace-console")

    def _start(self) -> None:
        streams = [(way.source, way.target) for way in self._ways]
        tee = _roused(self._directory, self._limit, streams, keys=self._keys) if not self._started else None
        self._started.append(time.monotonic())
        tee = tee or start_tee(self._directory, self._limit, streams, keys=self._keys, beside=self._beside)
        with self._lock:
            self._tee = tee

    # -- while it lasts ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """The thread: sleeps until the tee has something to say, or is gone."""
        read = original("os", "read")
        while (tee := self._tee) is not None:
            if not self._begins(tee):
                self._forget_tee()
                self._work_here()
                if self._ended:
                    self._ask()
                continue
            try:
                said = read(tee.answers, 16)
            except OSError:
                said = b""
            self._heed(said)
            if ANSWER_DRAINED in said:
                self._is_drained()
                return
            if said:
                continue
            # Here alone: another thread would take the number away from the read above.
            self._forget_tee()
            if self._left or self._pid != os.getpid():
                break
            self._go_on()
            if self._ended:
                self._ask()
        self._drained.set()

    def _heed(self, said: bytes) -> None:
        if ANSWER_LOST in said:
            self._warn("what this program prints cannot all be written where it goes; its run's console.log has it")
        if ANSWER_BROKEN in said:
            self._broken()

    def _is_drained(self) -> None:
        with self._lock:
            self._drained.set()
            left = self._left
        if left:  # nobody has waited for it so long
            self._forget_tee()

    def _ask(self) -> None:
        """Asks the tee to hand on what there is, and to say so."""
        with self._lock, contextlib.suppress(OSError):  # it is gone just now
            if self._tee is not None:
                self._tee.say(END)

    def _forget_tee(self) -> None:
        with self._lock:
            tee, self._tee = self._tee, None
            if tee is not None:
                tee.close()

    def _go_on(self) -> None:
        """The tee was killed. Another one goes on with what is in the kernel."""
        recent = [at for at in self._started if at > time.monotonic() - _PER]
        if len(recent) <= _RESTARTS:
            with contextlib.suppress(OSError):
                self._start()
                return
        self._work_here()

    def _begins(self, tee: TeeProcess) -> bool:
        """Whether a tee has come to its first word: what `sys.executable` names may be no Python, and never say one."""
        if tee.begun or tee.group == self._heard:
            return True
        poll = original("select", "poll")()
        poll.register(tee.answers, original("select", "POLLIN"))
        if poll.poll(_FIRST_WORD * 1000):
            self._heard = tee.group
            return True
        with contextlib.suppress(OSError):
            os.killpg(tee.group, signal.SIGKILL)
        return False

    def _work_here(self) -> None:
        """A thread of this process is the tee, and spoken to in the same way."""
        with contextlib.suppress(OSError, RuntimeError):  # nothing is left: then what is printed has nowhere to go
            ours, theirs = _socket.socketpair()
            control, answers = (theirs.detach(), ours.detach()), os.pipe()
            streams = [Stream(_kept(way.source), _kept(way.target)) for way in self._ways]
            tee = Tee(streams, Segments(str(self._directory), self._limit), control[0], answers[1])

            def work() -> None:
                tee.run()
                _close(control[0], answers[1])

            with self._lock:
                self._tee = TeeProcess(control[1], answers[0], 0, begun=True)
            start_thread(work, "tailrace-tee")
            return
        self._broken()

    def _broken(self) -> None:
        """Nobody reads any more where a stream goes: whoever prints is to get what it would have got."""
        for way in self._ways:
            self._restore(way)
        self._let_go()

    # -- the end -------------------------------------------------------------------------------------------------

    def _put_back(self) -> None:
        _flush()
        for way in self._ways:
            self._restore(way)
        for stream in self._buffered:
            with contextlib.suppress(Exception):  # closed, or another one's by now
                stream.reconfigure(line_buffering=False)

    def _restore(self, way: _Way) -> None:
        for fd, before in way.originals.items():
            # Where somebody has put something else in its place, as `dup2` and pytest do, it is theirs.
            with contextlib.suppress(OSError):
                if _identity(fd) == way.entry:
                    os.dup2(before, fd, inheritable=True)

    def _entries(self) -> dict[int, int]:
        """Copies of what stands for the outputs, by descriptor."""
        entries = {}
        for way in self._ways:
            for fd in way.originals:
                with contextlib.suppress(OSError):
                    if _identity(fd) == way.entry:
                        entries[fd] = _kept(fd)
        return entries

    def _lead_back(self, entries: dict[int, int]) -> None:
        for way in self._ways:
            for fd, before in way.originals.items():
                with contextlib.suppress(OSError):
                    if fd in entries and _identity(fd) == _identity(before):
                        os.dup2(entries[fd], fd, inheritable=True)

    def _rest_tee(self) -> None:
        """It has nothing more to do for this run."""
        global _resting
        with self._lock:
            tee, self._tee = self._tee, None
        if tee is None:
            return
        if not tee.group:
            tee.close()
            return
        with _lock:
            before, _resting = _resting, _Resting(tee, _identities(tee))
        if before is not None:
            _dismiss(before)

    def _give_back(self) -> None:
        self._put_back()
        self._forget_tee()
        self._let_go()

    def _let_go(self) -> None:
        """Closes what this process has of the streams, once."""
        with self._lock:
            ways, self._ways = self._ways, []
        for way in ways:
            _close(way.source, *way.originals.values())

    def after_fork(self) -> None:
        """In a forked child: what it prints goes the same way, and all the rest is the parent's."""
        self._lock = threading.Lock()
        self._forget_tee()
        self._let_go()


def _roused(directory: Path, limit: int, streams: list[tuple[int, int]], *, keys: bool) -> TeeProcess | None:
    """The tee of an earlier run, at work for this one; None without one that still is there."""
    global _resting
    resting, _resting = _resting, None
    if resting is None:
        return None
    try:
        if _identities(resting.tee) == resting.identities:
            resting.tee.begin(directory, limit, streams, keys=keys)
            return resting.tee._replace(begun=True)
    except OSError:  # it was killed, or has rested long enough
        _dismiss(resting)
    return None


def _dismiss(resting: _Resting) -> None:
    with contextlib.suppress(OSError):
        if _identities(resting.tee) == resting.identities:
            resting.tee.close()


def _identities(tee: TeeProcess) -> tuple[tuple[int, int, int], ...]:
    return _identity(tee.control), _identity(tee.answers)


def _after_fork_in_child() -> None:
    global _active, _lock, _resting
    _lock = threading.Lock()
    if _resting is not None:
        _dismiss(_resting)
        _resting = None
    if _active is not None:
        _active.after_fork()
        _active = None


os.register_at_fork(after_in_child=_after_fork_in_child)


def _close(*fds: int) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _identity(fd: int) -> tuple[int, int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_rdev


def _streams() -> list[tuple[int, ...]]:
    """The outputs that there are, those together that go to one place."""
    by_place: dict[tuple[int, int, int], tuple[int, ...]] = {}
    for fd in _OUTPUTS:
        with contextlib.suppress(OSError):  # closed, as daemons do
            place = _identity(fd)
            by_place[place] = (*by_place.get(place, ()), fd)
    return list(by_place.values())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # none, a closed one, or one of somebody's own
            stream.flush()


def _kept(fd: int) -> int:
    """The same file by a descriptor above the standard ones, that children do not get."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _way(fds: tuple[int, ...]) -> tuple[_Way, int]:
    """A stream for some outputs, and what is to stand in their places."""
    originals: dict[int, int] = {}
    ends: tuple[int, int] = (-1, -1)
    try:
        for fd in fds:
            originals[fd] = _kept(fd)
        ends = _pty(fds[0]) if os.isatty(fds[0]) else os.pipe()
        source, entry = _kept(ends[0]), _kept(ends[1])
    except BaseException:
        for fd in originals.values():
            os.close(fd)
        raise
    finally:
        for fd in ends:
            if fd >= 0:
                os.close(fd)
    return _Way(fds, source, _identity(entry), originals[fds[0]], originals), entry


def _gives_lines(fd: int) -> bool:
    """Whether whoever reads there gets whole lines, or it is no terminal."""
    if not os.isatty(fd):
        return True
    import termios

    with contextlib.suppress(OSError, termios.error):
        return bool(termios.tcgetattr(fd)[3] & termios.ICANON)
    return False


def _pty(terminal: int) -> tuple[int, int]:
    """A pty of the terminal's kind, size and modes: the tee undoes what those change of what is written."""
    import termios

    master, slave = os.openpty()
    with contextlib.suppress(OSError, termios.error):
        termios.tcsetattr(slave, termios.TCSANOW, termios.tcgetattr(terminal))
        size = fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    return master, slave
