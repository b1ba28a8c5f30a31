"""Descriptors that are kept: never 0, 1 or 2, which belong to standard input, output and error.

Where one of those is closed, the system gives its number to whatever is opened next. A lock there would be lost at the
next `exec`, which puts other files in its place, and a file there would get what the program's libraries print.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from typing import Final

__all__ = ["map_kept", "open_kept", "reserve"]

_FIRST: Final = 3


def open_kept(path: str | os.PathLike[str], flags: int, mode: int = 0o600) -> int:
    """As `os.open`, close-on-exec and above the standard descriptors. A file that it makes has that mode.

    Raises:
        OSError: It cannot be opened.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    if fd < _FIRST:
        try:
            kept = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST)
        finally:
            os.close(fd)
        fd = kept
    if flags & os.O_CREAT:
        _keep_mode(fd, mode)
    return fd


def _keep_mode(fd: int, mode: int) -> None:
    """Gives a file of this user's what the umask has taken: else not even this user could open it again."""
    found = os.fstat(fd)
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
        with contextlib.suppress(PermissionError):  # a file system that keeps no permissions
            os.fchmod(fd, mode)


def map_kept(fd: int, size: int, flags: int = mmap.MAP_SHARED) -> mmap.mmap:
    """As `mmap.mmap`, whose own copy of the descriptor is above the standard ones, too.

    Raises:
        OSError: It cannot be mapped.
    """
    between: list[int] = []
    try:
        while (free := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) < _FIRST:
            between.append(free)
        os.close(free)
        return mmap.mmap(fd, size, flags=flags)
    finally:
        for taken in between:
            os.close(taken)


def reserve(fd: int, size: int) -> None:
    """Takes the room of a file now: a mapping beyond what the file system can give would be a SIGBUS later.

    What is in the file stays there.

    Raises:
        OSError: There is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    elif os.fstat(fd).st_size < size:  # macOS
        os.pwrite(fd, bytes(size), 0)
