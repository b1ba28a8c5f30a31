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

__all__ = ["alone_in"]

_WITHIN: Final = 20.0
"""Seconds: whoever holds it writes one small file, which waits for the disk."""
_LOOK_EVERY: Final = 0.02
_TAKEN: Final = (errno.EWOULDBLOCK, errno.EINTR)


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """While nobody else is in there by the same way.

    Raises:
        OSError: The directory cannot be opened, or another process does not leave it.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        held = _lock(fd, directory)
        try:
            yield
        finally:
            if held:  # closing is not enough: a child forked meanwhile has the descriptor, too
                fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _lock(fd: int, directory: Path) -> bool:
    """Whether it is held now: some file systems lock no directories."""
    deadline = time.monotonic() + _WITHIN
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in _TAKEN:
                return False
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "another process does not let go of it", str(directory))
        time.sleep(_LOOK_EVERY)
