"""The last lines of a file that grows: only what has come since is read."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Final

from tailrace_agent.files.ownership import open_own

__all__ = ["Tail"]

_BEGIN: Final = 16 * 1024
_AT_ONCE: Final = 256 * 1024
_LINES: Final = 50


class Tail:
    """Follows one file.

    Args:
        path: It need not be there yet, and may be replaced or cut; a file of others is none.

    Not thread-safe.

    Example:
        >>> Tail(Path("console.log")).lines()
        ['epoch 3', 'epoch 4']
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at: int | None = None
        self._inode = 0
        self._rest = b""
        self._lines: deque[str] = deque(maxlen=_LINES)

    def lines(self) -> list[str]:
        """Its last lines by now, the unfinished one, too; each as a terminal would show it."""
        self._read()
        rest = _shown(self._rest)
        return [*self._lines, rest] if rest else list(self._lines)

    def _read(self) -> None:
        try:
            fd = open_own(self._path, os.O_RDONLY)
        except OSError:
            return
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if self._at is None or found.st_ino != self._inode or found.st_size < self._at:
                self._at, self._inode, self._rest = max(0, found.st_size - _BEGIN), found.st_ino, b""
                self._lines.clear()
            elif found.st_size - self._at > _AT_ONCE:  # who looks on wants the end
                self._at, self._rest = found.st_size - _BEGIN, b""
            file.seek(self._at)
            body = file.read(_AT_ONCE)
            self._at += len(body)
        *whole, self._rest = (self._rest + body).split(b"\n")
        self._lines.extend(_shown(line) for line in whole)
        self._rest = self._rest[-_BEGIN:]


def _shown(line: bytes) -> str:
    """A line as it stands on a terminal: what follows the last carriage return, if anything does."""
    parts = [part for part in line.split(b"\r") if part]
    return parts[-1].decode(errors="replace") if parts else ""
