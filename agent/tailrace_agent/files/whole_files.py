"""Files that are there as a whole or not at all, whatever the disk does in between.

A write may be short: a full disk, a quota or `ulimit -f` takes a part and reports it only at the next one. Whoever then
renames has replaced a good file by half of one.
"""

from __future__ import annotations

import os
from pathlib import Path

from tailrace_agent.files.ownership import open_own

__all__ = ["flush", "make_durable", "replace", "write_all"]


def write_all(fd: int, body: bytes) -> None:
    """Writes all of it.

    Raises:
        OSError: The disk takes no more; a part may be written.
    """
    rest = memoryview(body)
    while rest:
        rest = rest[os.write(fd, rest) :]


def replace(path: Path, body: bytes, *, durable: bool = False) -> None:
    """Replaces the file as a whole, 0600: a reader sees the old one or the new one.

    Args:
        path: The file.
        body: What it is to hold.
        durable: So it is after a power cut, too: waits for the disk.

    Raises:
        OSError: It cannot be written; the old one is still there, and nothing beside it.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        # Not O_EXCL: one that a killed process has left would be in the way of the next one with its id.
        fd = open_own(temporary, os.O_WRONLY | os.O_CREAT)
        try:
            os.truncate(fd, 0)  # not before it is known whose it is
            write_all(fd, body)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        make_durable(path)


def make_durable(path: Path) -> None:
    """Has what the file holds, and that it is there, survive a power cut. Waits for the disk.

    Raises:
        OSError: The disk does not do it.
    """
    # Two above: the directory may be as new as the file, and its own name stands in the one above it.
    for part in (path, path.parent, path.parent.parent):
        flush(part)


def flush(path: Path, flags: int = 0) -> None:
    """Has what a file holds, or which names a directory has, reach the disk; `flags` are for opening it.

    Raises:
        OSError: The disk does not do it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
