"""A text file that has a bound: its beginning and its end are kept, and a line in between says how much is missing."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

from tailrace_agent.files.ownership import open_own, read_own, write_own
from tailrace_agent.files.whole_files import replace, write_all

__all__ = ["KeptText", "left_out_line"]

_LEFT_OUT: Final = re.compile(rb"^\[\xe2\x80\xa6 ([0-9,]+) bytes left out \xe2\x80\xa6\]\n", re.MULTILINE)


def left_out_line(count: int) -> str:
    """Stands where something is missing."""
    return f"[… {count:,} bytes left out …]"


class KeptText:
    """The file; it begins empty.

    Args:
        path: Where it is.
        limit: Bytes. It may have a quarter more for a while.

    Raises:
        OSError: It cannot be written.

    Not thread-safe.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self._limit = path, limit
        self.size = 0
        replace(path, b"")

    def append(self, text: str) -> None:
        """Adds whole lines.

        Raises:
            OSError: The disk does not take them: then it has none of them.
        """
        body = text.encode("utf-8", "replace")
        fd = open_own(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            before = os.fstat(fd).st_size
            try:
                write_all(fd, body)
            except OSError:
                os.ftruncate(fd, before)
                raise
        finally:
            os.close(fd)
        self.size += len(body)
        if self.size > self._limit + self._limit // 4:
            with contextlib.suppress(OSError):  # no room for another file: the next time
                self._leave_out()

    def copy(self, to: Path, begun: str) -> None:
        """A copy, with the line behind it that is not complete.

        Raises:
            OSError: It cannot be written.
        """
        write_own(to, _bounded(read_own(self.path), self._limit) + begun.encode("utf-8", "replace"))

    def _leave_out(self) -> None:
        """Another file takes its place: whoever reads the old one has it whole."""
        body = _bounded(read_own(self.path), self._limit)
        replace(self.path, body)
        self.size = len(body)


def _bounded(body: bytes, limit: int) -> bytes:
    if len(body) <= limit:
        return body
    head = body.rfind(b"\n", 0, limit // 4) + 1
    tail = body.find(b"\n", len(body) - (limit - limit // 4)) + 1
    middle = body[head:tail]
    count = 0
    for found in _LEFT_OUT.finditer(middle):  # of earlier times
        count += int(found[1].replace(b",", b"")) - len(found[0])
    return body[:head] + left_out_line(len(middle) + count).encode() + b"\n" + body[tail:]
