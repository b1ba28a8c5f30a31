"""The terminal behind a pty: it gets the modes that programs give the pty, and its keys reach who reads them there.

A pager reads its keys from standard error (`less` opens it anew by its name), a curses program sets modes at its
standard output and reads at its standard input, which is the terminal itself. So while the modes of the pty are those
of a program that wants single keys (no `ICANON`), the terminal has them, too; and keys that nobody has taken there go
into the pty. In all other modes no key is touched: lines, and what is typed ahead, belong to who reads the terminal.

Invariants
----------
1. Keys are taken while single keys are wanted, and a process of the program's is in the terminal's foreground, alone.
2. A key waits for another reader before it is taken: the first one for a second, unless a process has opened the pty
   anew. Who takes one is known by it from then on, until the modes change.
3. Modes are taken back if they are still those that were given: a shell that has set its own keeps them.
4. Nothing here waits, and what does not work is left as it is.

It is part of the tee, which a bare Python runs: it imports what is built in and nothing of tailrace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import termios
import time

TYPE_CHECKING = False  # `typing` is not built in
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Terminal"]

_LOOK = 0.5
"""Seconds between two looks at the terminal's size, and at the pty's modes."""
_LOOK_AT_KEYS = 0.05
"""The same while single keys are wanted."""
_PATIENCE = {None: 1.0, True: 0.03, False: 5.0}
"""Seconds for which a key is left to others: as long as nobody knows who reads, if it is read at the pty, if it is not.
Never none: `more` waits for it at standard input, and reads it at standard error."""
_HANDED_OVER = 0.04
"""Seconds after which what was written into the pty has come to its other end."""
_UNREAD = 1.0
"""Seconds after which a key that lies in the pty is taken for one that nobody wants there."""
_INPUT, _OUTPUT, _LOCAL, _CHARACTERS = 0, 1, 3, 6  # places in what `tcgetattr` gives
_ANCESTORS = 32
_PEER = 0x5441  # TIOCGPTPEER, which Python's `termios` has no name for before 3.13


class Terminal:
    """One terminal.

    Args:
        master: Of the pty that stands for it.
        terminal: It itself.
        program: Process whose terminal it is; 0 where no key is to be touched.
        group: Process group that is told of a new window size; 0 for none.
    """

    def __init__(self, master: int, terminal: int, program: int = 0, group: int = 0) -> None:
        self._master, self._terminal, self._program, self._group = master, terminal, program, group
        self._size = b""
        self._modes = self._modes_of(master)
        self._before: list[Any] | None = None  # the terminal's modes, while it has others
        self._given: list[Any] | None = None  # those that it has instead
        self._reads_pty: bool | None = None
        self._unread = 0  # keys that wait for their reader
        self._unread_since = 0.0  # since when one does; 0: none does
        self._passed_at = 0.0  # when one was given to the pty that is not yet read there
        self._asked_at, self._foreground = float("-inf"), False
        self.keys = -1  # where keys are read, while single keys are wanted

    @property
    def wait(self) -> float:
        """Seconds until it is to be looked at again."""
        if not self._unread_since:
            return _LOOK if self.keys < 0 else _LOOK_AT_KEYS
        return min(_LOOK_AT_KEYS, _PATIENCE[self._reads_pty])

    @property
    def wants_keys(self) -> bool:
        """Whether to be woken by the next key."""
        return self.keys >= 0 and not self._unread_since

    @property
    def adds_returns(self) -> bool:
        """Whether the pty writes CR LF where the program has written LF, as the terminal will once more."""
        both = termios.OPOST | termios.ONLCR
        return self._modes is not None and self._modes[_OUTPUT] & both == both

    def look(self, *, woken: bool = False) -> None:
        """Sees what has changed: the window's size, the modes, and who takes keys; `woken` if a key has come."""
        self._follow_size()
        modes = self._modes_of(self._master)
        if modes is None:  # nobody has the pty any more
            self.close()
            return
        changed, self._modes = modes != self._modes, modes
        if modes[_LOCAL] & termios.ICANON or not self._has_foreground():
            self.close()
        elif changed or self.keys < 0:
            self._give(modes)
        if self.keys >= 0:
            self._pass_keys(woken)

    def close(self) -> None:
        """Takes back what the terminal was given."""
        if self.keys < 0:
            return
        os.close(self.keys)
        self.keys = -1
        if self._given is not None and self._given == self._modes_of(self._terminal):
            self._set(self._before)
        self._given = self._before = None

    # -- size and modes --------------------------------------------------------------------------------------------

    def _follow_size(self) -> None:
        """Gives the pty the size that the terminal has by now, and has the program look."""
        try:
            size = fcntl.ioctl(self._terminal, termios.TIOCGWINSZ, bytes(8))
            if size != self._size:
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
                if self._size and self._group:
                    os.killpg(self._group, signal.SIGWINCH)
            self._size = size
        except OSError:  # closed; or no program is left
            self._size = self._size or b"?"

    @staticmethod
    def _modes_of(fd: int) -> list[Any] | None:
        try:
            return termios.tcgetattr(fd)
        except (OSError, termios.error):
            return None

    def _give(self, modes: list[Any]) -> None:
        """Gives the terminal the modes of the pty, but for those of a line's speed."""
        before = self._modes_of(self._terminal)
        if before is None or (self.keys < 0 and not self._open()):
            return
        given = list(before)
        given[_INPUT], given[_OUTPUT], given[_CHARACTERS] = modes[_INPUT], modes[_OUTPUT], modes[_CHARACTERS]
        given[_LOCAL] = modes[_LOCAL] & ~termios.ECHO  # the pty has it of the keys that it is given
        if self._before is None:
            self._before = before
        self._set(given)
        self._given = self._modes_of(self._terminal)
        self._reads_pty, self._unread, self._unread_since, self._passed_at = None, 0, 0.0, 0.0

    def _set(self, modes: list[Any] | None) -> None:
        if modes is not None:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(self._terminal, termios.TCSANOW, modes)

    def _open(self) -> bool:
        """Opens the terminal anew: not to wait there must not become a property of what the shell has open."""
        with contextlib.suppress(OSError):
            name = f"/proc/self/fd/{self._terminal}"
            self.keys = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        return self.keys >= 0

    def _has_foreground(self, at_most: float = _LOOK_AT_KEYS) -> bool:
        """Whether the terminal is the program's, and a process of its has the keys, as known for so many seconds."""
        now = time.monotonic()
        if now >= self._asked_at + at_most:
            self._asked_at, self._foreground = now, self._look_at_foreground()
        return self._foreground

    def _look_at_foreground(self) -> bool:
        about = _Process.of(self._program) if self._program else None
        if about is None or about.terminal != _number(self._terminal):
            return False
        pid = about.foreground
        if pid == about.group:  # whose first process may be gone
            return True
        for _ in range(_ANCESTORS):
            one = _Process.of(pid)
            if one is None:
                return False
            if pid == self._program or one.group == about.group:
                return True
            pid = one.parent
        return False

    # -- keys ------------------------------------------------------------------------------------------------------

    def _pass_keys(self, woken: bool) -> None:
        """Gives the pty what others have had time to take."""
        now = time.monotonic()
        self._look_who_reads(now)
        unread = _waiting_at(self.keys)
        if unread is None:  # the terminal was closed
            self.close()
            self._program = 0
            return
        if unread < max(self._unread, woken):  # somebody has taken some
            self._reads_pty, self._unread_since = False, 0.0
        self._unread = unread
        if not unread:
            self._unread_since = 0.0
            return
        if self._reads_pty is None and not self._unread_since and self._is_opened():
            self._reads_pty = True
        self._unread_since = self._unread_since or now
        if now < self._unread_since + _PATIENCE[self._reads_pty] or not self._has_foreground(0.0):
            return
        self._unread, self._unread_since = 0, 0.0
        with contextlib.suppress(OSError):  # somebody was quicker
            keys = os.read(self.keys, 1024)
            os.write(self._master, keys)
            self._passed_at = self._passed_at or now

    def _look_who_reads(self, now: float) -> None:
        if not self._passed_at:
            return
        with self._peer() as pty:
            unread = _waiting_at(pty)
        if not unread and now > self._passed_at + _HANDED_OVER:
            self._reads_pty, self._passed_at = True, 0.0
        elif unread and now > self._passed_at + _UNREAD:
            self._reads_pty = False

    def _is_opened(self) -> bool:
        """Whether a process with the keys has the pty other than as an output, as `less` and `vim -` do."""
        about = _Process.of(self._program)
        if about is None:
            return False
        with self._peer() as pty:
            identity = _identity(pty)
        for name in os.listdir("/proc"):  # noqa: PTH208
            if not name.isdigit() or int(name) == self._program:
                continue
            one = _Process.of(int(name))
            if one is not None and one.group == about.foreground and identity in _inputs(name):
                return True
        return False

    @contextlib.contextmanager
    def _peer(self) -> Iterator[int]:
        """The pty's other end, for a moment: held, it would keep the end of those who print from being seen."""
        pty = -1
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
            pty = fcntl.ioctl(self._master, getattr(termios, "TIOCGPTPEER", _PEER), flags)
        try:
            yield pty
        finally:
            if pty >= 0:
                os.close(pty)


def _waiting_at(fd: int) -> int | None:
    """Bytes that can be read there; None of a terminal that is closed."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return None


class _Process:
    """What the system says of a process: numbers of others, and of its terminal."""

    def __init__(self, parent: int, group: int, terminal: int, foreground: int) -> None:
        self.parent, self.group, self.terminal, self.foreground = parent, group, terminal, foreground

    @classmethod
    def of(cls, pid: int) -> _Process | None:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - no pathlib here
                # behind the name, which may hold anything: state, parent, group, session, terminal, foreground
                fields = file.read().rpartition(b")")[2].split()
            return cls(int(fields[1]), int(fields[2]), int(fields[4]), int(fields[5]))
        except (OSError, ValueError, IndexError):  # gone; or no such system
            return None


def _inputs(pid: str) -> Iterator[tuple[int, int] | None]:
    """Which files a process has open, its outputs aside."""
    folder = f"/proc/{pid}/fd"
    try:
        for fd in os.listdir(folder):  # noqa: PTH208
            if fd not in ("1", "2"):
                with contextlib.suppress(OSError):  # closed just now
                    found = os.stat(f"{folder}/{fd}")  # noqa: PTH116
                    yield found.st_dev, found.st_ino
    except OSError:  # another user's; or gone
        return


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _number(fd: int) -> int:
    """A terminal's number, as `/proc` writes it."""
    try:
        device = os.fstat(fd).st_rdev
    except OSError:
        return -1
    major, minor = os.major(device), os.minor(device)
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
