"""One file, taken in the cheapest way that the file system allows: reflink, hard link, copy in the kernel, copy.

Thread safety: stateless. The GIL is released while the kernel copies.
"""

# ruff: noqa: PTH108, PTH116 - descriptors and system calls, no pathlib

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, Literal

from tailrace_agent.files.descriptors import open_kept

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["How", "take_file", "weaker"]

How = Literal["reflink", "link", "copy"]

_FICLONE: Final = 0x40049409  # of linux/fs.h; Python's `fcntl` has no name for it
_CHUNK: Final = 64 << 20
"""Bytes that the kernel copies in one call."""
_BUFFER: Final = 1 << 20
"""Bytes that are read and written at once where the kernel cannot copy."""
_CANNOT: Final = frozenset(
    {
        errno.EOPNOTSUPP,
        errno.ENOTSUP,
        errno.EXDEV,  # another file system
        errno.EINVAL,
        errno.ENOTTY,  # a file system that does not know this ioctl
        errno.ENOSYS,
        errno.EPERM,  # a sandbox's filter; a hard link to a file of somebody else's (fs.protected_hardlinks)
        errno.EBADF,
        errno.ETXTBSY,  # a file that the system swaps to
        errno.EMLINK,  # the file has as many names as it may
        errno.EACCES,
    }
)
"""The errors of a file system, an old kernel or a sandbox for a way that it does not offer: take the next one."""

_ORDER: Final = {"reflink": 0, "link": 1, "copy": 2}


def weaker(one: How, other: How) -> How:
    """The dearer of two ways."""
    return one if _ORDER[one] >= _ORDER[other] else other


def take_file(source: str, target: str, *, link: bool) -> tuple[int, How]:
    """Takes a regular file.

    Args:
        source: The file; a symbolic link is followed.
        target: Must not exist.
        link: Allow a hard link.

    Returns:
        Its size in bytes, and how it was taken.

    Raises:
        OSError: As the system raises it.
    """
    # O_NONBLOCK: a pipe that has taken the file's place meanwhile must not hold us up.
    flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
    reader = os.open(source, flags)
    try:
        # Of what is open, and not of the name, which may lead elsewhere by now.
        found = os.fstat(reader)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return _take(reader, source, target, found, link=link)
    finally:
        os.close(reader)


def _take(reader: int, source: str, target: str, found: os.stat_result, *, link: bool) -> tuple[int, How]:
    writer = _create(target)
    try:
        if _reflink(reader, writer):
            return os.fstat(writer).st_size, "reflink"
        if not link:
            return _copy(reader, writer, found), "copy"
    finally:
        os.close(writer)
    # A link makes its own name, and the file that a reflink would have filled is in its way.
    os.unlink(target)
    size = _hard_link(source, target)
    return _take_copy(reader, target, found) if size is None else (size, "link")


def _take_copy(reader: int, target: str, found: os.stat_result) -> tuple[int, How]:
    """Copies an open file to a new one."""
    writer = _create(target)
    try:
        return _copy(reader, writer, found), "copy"
    finally:
        os.close(writer)


def _create(target: str) -> int:
    return open_kept(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def _reflink(reader: int, writer: int) -> bool:
    try:
        import fcntl

        fcntl.ioctl(writer, _FICLONE, reader)
    except ImportError:
        return False
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def _hard_link(source: str, target: str) -> int | None:
    try:
        # The file itself: on Linux `os.link` makes a second name for a symbolic link, and not for where it leads.
        os.link(os.path.realpath(source), target)
    except OSError as error:
        if error.errno in _CANNOT:
            return None
        raise
    return os.stat(target).st_size


def _copy(reader: int, writer: int, found: os.stat_result) -> int:
    """Up to the size at the start, so that a file that is being appended to comes to an end."""
    size = found.st_size
    if size == 0:
        # Files such as those in /proc have content, but no size.
        return _pump(reader, writer)
    # Fewer blocks than bytes: there are holes. (Also in a compressed file, which then is copied piece by piece.)
    if getattr(found, "st_blocks", 0) * 512 < size and hasattr(os, "SEEK_DATA"):
        return _copy_sparse(reader, writer, size)
    _copy_range(reader, writer, 0, size)
    return os.fstat(writer).st_size


def _copy_sparse(reader: int, writer: int, size: int) -> int:
    """Copies the data and leaves the holes."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(reader, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            start = offset  # a file system without holes
        if start >= size:
            break
        # A byte at least: the file may change meanwhile, and the loop has to end.
        offset = min(size, max(start + 1, _end_of_data(reader, start, size)))
        _copy_range(reader, writer, start, offset - start)
    # A hole at the end leaves nothing to copy, but belongs to the size.
    os.ftruncate(writer, min(size, os.fstat(reader).st_size))
    return os.fstat(writer).st_size


def _end_of_data(reader: int, start: int, size: int) -> int:
    try:
        return os.lseek(reader, start, os.SEEK_HOLE)
    except OSError:
        return size


def _copy_range(reader: int, writer: int, offset: int, count: int) -> None:
    """Copies a range to the same place; a file that has shrunk meanwhile ends it early."""
    for way in _ways():
        done = _copy_by(way, reader, writer, offset, count)
        offset, count = offset + done, count - done


def _copy_by(way: Callable[[int, int, int, int], int], reader: int, writer: int, offset: int, count: int) -> int:
    """How much of a range one way of copying managed; what is left is for the next way."""
    done = 0
    try:
        while done < count:
            # In pieces: a signal is handled between two of them, and not after a hundred gigabytes.
            copied = way(reader, writer, min(_CHUNK, count - done), offset + done)
            if copied == 0:
                break
            done += copied
    except OSError as error:
        # Whatever was copied until then stays: the next way goes on from there.
        if error.errno not in _CANNOT or way is _read_write:
            raise
    return done


def _ways() -> tuple[Callable[[int, int, int, int], int], ...]:
    return (_in_kernel, _read_write) if hasattr(os, "copy_file_range") else (_read_write,)


def _in_kernel(reader: int, writer: int, count: int, offset: int) -> int:
    # Inside the kernel: no page of it comes into this process, and a server of NFS copies it by itself.
    return os.copy_file_range(reader, writer, count, offset, offset)


def _read_write(reader: int, writer: int, count: int, offset: int) -> int:
    return _write_all(writer, os.pread(reader, min(count, _BUFFER), offset), offset)


def _write_all(writer: int, data: bytes, offset: int) -> int:
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.pwrite(writer, view[written:], offset + written)
    return written


def _pump(reader: int, writer: int) -> int:
    offset = 0
    while True:
        copied = _read_write(reader, writer, _BUFFER, offset)
        if copied == 0:
            return offset
        offset += copied
