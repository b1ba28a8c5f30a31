"""One process at a time in a directory: an `flock` on the directory itself, which leaves no file behind.

It is best effort: a network file system may know no such lock on a directory, and then it is not held. So whoever
changes something reads anew what is there, and what cannot bear two at a time is locked in shared memory as well.

Thread safety: every function from any thread; threads exclude each other, too. Not to be held twice by one thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["alone_in", "let_go", "locked"]

_WITHIN: Final = 20.0
"""Seconds: whoever holds it writes one small file, which waits for the disk."""
_LOOK_EVERY: Final = 0.02  # a waiting `flock` has no time-out, so it is tried now and then
_TAKEN: Final = (errno.EWOULDBLOCK, errno.EINTR)


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """While nobody else is in there by the same way.

    Raises:
        OSError: The directory cannot be opened, or another process does not leave it.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with locked(fd, fcntl.LOCK_EX, directory, needed=False):
        yield


@contextmanager
def locked(fd: int, how: int, path: Path, *, needed: bool = True) -> Iterator[None]:
    """Holds an `flock`, and closes its descriptor at the end, whatever happens.

    Args:
        fd: A descriptor of the caller's, which is closed here.
        how: `LOCK_EX` or `LOCK_SH`.
        path: What it is of.
        needed: Whether a file system that knows no such lock is an error.

    Raises:
        OSError: It cannot be had, or another process does not leave it.
    """
    try:
        held = _lock(fd, how, path, needed=needed)
        try:
            yield
        finally:
            if held:  # closing is not enough: a child forked meanwhile has the descriptor, too
                fcntl.flock(fd, fcntl.LOCK_UN)
    finally:  # a descriptor that stayed open would keep this very process out, too
        os.close(fd)


def let_go(fd: int) -> None:
    """Gives an `flock` back, and closes its descriptor.

    Raises:
        OSError: There is no such descriptor.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough: a child forked meanwhile has the descriptor, too
    finally:
        os.close(fd)


def _lock(fd: int, how: int, path: Path, *, needed: bool) -> bool:
    """Whether it is held now: some file systems lock no directories."""
    deadline = time.monotonic() + _WITHIN
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in _TAKEN:
                if needed:
                    raise
                return False
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "another process does not let go of it", str(path))
        time.sleep(_LOOK_EVERY)
