"""The console of one process: from what its tee keeps to the text that people read."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Final

from tailrace_agent.console.kept import KeptText, left_out_line
from tailrace_agent.console.plain import Plain
from tailrace_agent.console.tee import DONE
from tailrace_agent.files.ownership import open_own, read_own, remove_tree
from tailrace_agent.files.whole_files import replace
from tailrace_agent.ipc.console_files import CRASH, TRACEBACK
from tailrace_agent.text.masking import mask_lines, mask_text

__all__ = ["Console"]

_LAST: Final = 50
"""Lines that a process is remembered by."""
_AT_ONCE: Final = 1 << 20
_OURS: Final = "tailrace: "
_FILE_AT_MOST: Final = 1 << 20


class Console:
    """One process's.

    Args:
        raw: The directory in which its tee keeps what it prints.
        text: The file that people read.
        limit: Bytes of that.

    Attributes:
        spoken: Whether it has printed anything beside tailrace's own lines.

    Not thread-safe.
    """

    def __init__(self, raw: Path, text: Path, limit: int) -> None:
        self._raw, self._path, self._limit = raw, text, limit
        self._text: KeptText | None = None
        self._plain = Plain()
        self._at = 0  # how far it is read, in all that was printed
        self._unwritten: list[str] = []  # lines that the disk has not taken yet
        self._last: deque[str] = deque(maxlen=_LAST)
        self._seen_begun = ""
        self.spoken = False

    def read(self) -> bool:
        """Takes over what has come; whether there was anything.

        Raises:
            OSError: The text cannot be written. What was to be added is, with the next call.
        """
        new = bool(self._unwritten)
        if new:
            self._append([])
        while body := self._next():
            new = True
            self._take(body)
        begun = self._plain.begun
        if begun != self._seen_begun:
            new, self._seen_begun = True, begun
            self.spoken = self.spoken or _is_spoken(begun)
        return new

    @property
    def done(self) -> bool:
        """Whether nothing more comes."""
        return (self._raw / DONE).exists()

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return self._text.size if self._text is not None else 0

    def copy(self, to: Path) -> None:
        """A copy of the text as it stands.

        Raises:
            OSError: It cannot be written.
        """
        text = self._text or KeptText(self._path, self._limit)
        text.copy(to, mask_text(self._plain.begun))

    @property
    def last_lines(self) -> list[str]:
        """The last that it has printed."""
        begun = self._plain.begun
        lines = [*self._last, *([mask_text(begun)] if begun else [])]
        return lines[-_LAST:]

    def forget(self, *, goes_on: bool = False) -> None:
        """All that was printed is in the text, or never will be: the bytes, which are not masked, are deleted.

        Args:
            goes_on: Another attempt may print here, and be read from its beginning. So the text takes their place.

        Raises:
            OSError: They cannot be deleted.
        """
        if not goes_on:
            remove_tree(self._raw)
        elif self._at:
            text = read_own(self._path) if self._text is not None else b""
            if begun := self._plain.begun:
                text += f"{mask_text(begun)}\n".encode("utf-8", "replace")
            # It ends where they did: whoever begins to print just now, and has looked for the end, goes on there.
            first, end = max(0, self._at - len(text)), self._at
            replace(self._segment(first), text)
            for start in self._segments():
                if start < end and start != first:
                    self._segment(start).unlink(missing_ok=True)
            (self._raw / TRACEBACK).unlink(missing_ok=True)
            self._at = first + len(text)

    def beside(self, name: str) -> str:
        """What this process has left beside its output, masked: nothing where it has left nothing."""
        try:
            fd = open_own(self._raw / name, os.O_RDONLY)
            with os.fdopen(fd, "rb") as file:
                body = file.read(_FILE_AT_MOST)
        except OSError:
            return ""
        return mask_text(body.decode("utf-8", "replace"))

    @property
    def traceback(self) -> str:
        """Of the exception that has ended the run."""
        return self.beside(TRACEBACK)

    @property
    def crash(self) -> str:
        """What `faulthandler` has to say."""
        return self.beside(CRASH)

    def _next(self) -> bytes:
        """The next piece; what the tee has given up meanwhile is passed over, with a line."""
        starts = self._segments()
        if not starts:
            return b""
        self._at = self._at or starts[0]  # a tee never gives up the first one
        where = max((start for start in starts if start <= self._at), default=starts[0])
        body = self._piece(where)
        later = [start for start in starts if start > max(where, self._at)]
        if body or not later:
            return body
        # The end of that segment: the next one begins here, or further on where some are gone.
        if later[0] > self._at:
            self._leave_out(later[0] - self._at)
            self._at = later[0]
        return self._piece(later[0])

    def _segment(self, start: int) -> Path:
        return self._raw / f"{start:020d}"

    def _piece(self, start: int) -> bytes:
        if self._at < start:
            self._leave_out(start - self._at)
            self._at = start
        try:
            fd = open_own(self._segment(start), os.O_RDONLY)
            with os.fdopen(fd, "rb") as file:
                file.seek(self._at - start)
                return file.read(_AT_ONCE)
        except OSError:  # given up just now
            return b""

    def _segments(self) -> list[int]:
        try:
            names = os.listdir(self._raw)  # noqa: PTH208 - names alone
        except OSError:
            return []
        return sorted(int(name) for name in names if name.isdigit())

    def _take(self, body: bytes) -> None:
        self._at += len(body)
        if lines := self._plain.feed(body):
            self._append(mask_lines(lines))

    def _append(self, lines: list[str]) -> None:
        self._unwritten += lines
        self._last.extend(lines[-_LAST:])
        self.spoken = self.spoken or any(map(_is_spoken, lines))
        if self._text is None:
            self._text = KeptText(self._path, self._limit)
        self._text.append("".join(f"{line}\n" for line in self._unwritten))
        self._unwritten = []

    def _leave_out(self, count: int) -> None:
        self._append([left_out_line(count)])


def _is_spoken(line: str) -> bool:
    return bool(line) and not line.startswith(_OURS)
