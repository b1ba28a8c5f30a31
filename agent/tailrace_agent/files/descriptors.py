"""Descriptors that are kept: never 0, 1 or 2, which belong to standard input, output and error.

Where one of those is closed, the system gives its number to whatever is opened next. A lock there would be lost at the
next `exec`, which puts other files in its place, and a file there would get what the program's libraries print.

Some are kept in reserve (`SPARE`): a program that leaks descriptors, as data loaders do, has none left one day, and
what it logs is to arrive all the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from typing import Final

__all__ = ["NONE_LEFT", "SPARE", "map_kept", "nameless", "open_kept", "reserve"]

_FIRST: Final = 3
NONE_LEFT: Final = (errno.EMFILE, errno.ENFILE)
"""The errors where a process, or the system, has no descriptor left."""


class Spare:
    """Some descriptors in reserve, to be lent to calls of tailrace's own where the program has none left.

    They are an empty file in memory, by which they are known again: a program may have closed them, as daemons do, and
    have got their numbers for files of its own. Where there are no such files (not Linux), nothing is in reserve.

    Args:
        most: How many.

    Thread safety: every method from any thread, signal handler, and after a fork: it takes no lock.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._held: list[tuple[int, tuple[int, int]]] = []
        self._borrowers: list[None] = []  # how many: `append` and `pop` are one step each, and need no lock

    def fill(self) -> None:
        """Takes as many as are wanted, or as can be had."""
        create = getattr(os, "memfd_create", None)
        if create is None or len(self._held) >= self._most:
            return
        with contextlib.suppress(OSError):
            fd = _above(create("tailrace-spare", os.MFD_CLOEXEC))
            identity = _identity(fd)
            self._held.append((fd, identity))
            while len(self._held) < self._most:
                self._held.append((fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST), identity))

    def lend(self, *, many: bool = False) -> bool:
        """Lets whoever opens something have them, if there are no others; whether `take_back` is to follow.

        Args:
            many: More than two are needed at a time.
        """
        if not many and self._some_are_left():
            return False
        self._borrowers.append(None)
        while self._held:
            try:
                fd, identity = self._held.pop()
            except IndexError:  # another thread was quicker
                break
            with contextlib.suppress(OSError):
                if _identity(fd) == identity:
                    os.close(fd)
        return True

    @contextlib.contextmanager
    def lent(self, *, many: bool = False) -> Iterator[None]:
        """The same while it lasts."""
        lent = self.lend(many=many)
        try:
            yield
        finally:
            if lent:
                self.take_back()

    def take_back(self) -> None:
        """Takes them back, unless somebody else still needs them."""
        with contextlib.suppress(IndexError):  # in a child that was forked meanwhile
            self._borrowers.pop()
        if not self._borrowers:
            self.fill()

    def after_fork(self) -> None:
        """In a forked child: the threads that had borrowed some have stayed behind."""
        self._borrowers.clear()

    def _some_are_left(self) -> bool:
        held = self._held[:1]
        if not held:
            # Lent already: then this call borrows them, too. Or never filled: then there is nothing to lend.
            return not self._borrowers
        tried: list[int] = []
        try:
            tried.extend(os.dup(held[0][0]) for _ in range(2))  # two: that many a call needs at a time, `many` aside
        except OSError:
            return False
        finally:
            for fd in tried:
                os.close(fd)
        return True


def _identity(fd: int) -> tuple[int, int]:
    about = os.fstat(fd)
    return about.st_dev, about.st_ino


SPARE: Final = Spare()
"""This process's own; empty before its first run."""
os.register_at_fork(after_in_child=SPARE.after_fork)


def open_kept(path: str | os.PathLike[str], flags: int, mode: int = 0o600) -> int:
    """As `os.open`, close-on-exec and above the standard descriptors; one in reserve is used where there is no other.

    A file that it makes has that mode, whatever the umask is.

    Raises:
        OSError: It cannot be opened.
    """
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno not in NONE_LEFT:
            raise
        with SPARE.lent():
            fd = os.open(path, flags | os.O_CLOEXEC, mode)
    fd = _above(fd)
    if flags & os.O_CREAT:
        _keep_mode(fd, mode)
    return fd


def _keep_mode(fd: int, mode: int) -> None:
    """Gives a file of this user's what the umask has taken: else not even this user could open it again."""
    found = os.fstat(fd)
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
        with contextlib.suppress(PermissionError):  # a file system that keeps no permissions
            os.fchmod(fd, mode)


def _above(fd: int) -> int:
    """The same file by a descriptor above the standard ones."""
    if fd >= _FIRST:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    finally:
        os.close(fd)


def map_kept(fd: int, size: int, flags: int = mmap.MAP_SHARED) -> mmap.mmap:
    """As `mmap.mmap`, whose own copy of the descriptor is above the standard ones, too.

    Raises:
        OSError: It cannot be mapped.
    """
    between: list[int] = []
    try:
        # `mmap` copies the descriptor to the lowest free number: those below are taken while it does.
        while (free := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) < _FIRST:
            between.append(free)
        os.close(free)
        return mmap.mmap(fd, size, flags=flags)
    finally:
        for taken in between:
            os.close(taken)


def nameless(directory: str | os.PathLike[str], content: bytes) -> int:
    """A file that nobody finds by a name, in memory where the system has such; its reader begins at the start.

    Args:
        directory: Where it is made, and deleted at once, on other systems.
        content: What it holds.

    Raises:
        OSError: It cannot be made.
    """
    if hasattr(os, "memfd_create"):
        fd = _above(os.memfd_create("tailrace", os.MFD_CLOEXEC))
    else:
        path = os.path.join(directory, f".{os.urandom(8).hex()}")  # noqa: PTH118
        fd = open_kept(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.unlink(path)  # noqa: PTH108
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)  # the copy shares its position
    except OSError:
        os.close(fd)
        raise
    return fd


def reserve(fd: int, size: int) -> None:
    """Takes the room of a file now: a mapping beyond what the file system can give would be a SIGBUS later.

    What is in the file stays there.

    Raises:
        OSError: There is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    elif (there := os.fstat(fd).st_size) < size:  # macOS: a hole would be no room, so zeros are written
        os.pwrite(fd, bytes(size - there), there)
