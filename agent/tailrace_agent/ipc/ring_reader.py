"""The agent's end of a ring: what was put comes out once and in order. Its invariants and format are in `ring_writer`.

Nothing in the header or the frames is believed that cannot be true. A read comes to an end and does not raise for it:
a frame leads on, never past the head; what is lost is counted; and what can still be found is read.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Final, NamedTuple
from zlib import adler32

from tailrace_agent.errors import SessionError
from tailrace_agent.files.descriptors import NONE_LEFT
from tailrace_agent.files.holes import punch
from tailrace_agent.files.ownership import open_own
from tailrace_agent.ipc.records import FORMAT
from tailrace_agent.ipc.ring_format import (
    BASE,
    HEAD,
    MAGIC,
    MIN_BYTES,
    PAD,
    PID,
    SPILL_BASE,
    SPILLED,
    TAIL,
    UNSPILLED,
    is_position,
    is_spill_position,
    map_ring,
)

__all__ = ["Frames", "RingReader"]

_PASSING: Final = (*NONE_LEFT, errno.ENOMEM)
"""What is no fault of a file."""
_AGAIN: Final = (*_PASSING, errno.ENOENT, errno.EIO, errno.ENOSPC, errno.EINTR)
"""After which a file is opened again later: nothing is known of what it holds, which may be rows."""


class Frames(NamedTuple):
    """What one read found.

    Attributes:
        rows: The rows, in the order in which they were put.
        tail: Where the ring was read to.
        spill: Where the spill file was read to.
        damaged: Frames that were skipped because they cannot be believed.
        more: True when there was more than was requested.
    """

    rows: list[bytes]
    tail: int
    spill: int
    damaged: int
    more: bool


class RingReader:
    """The agent's end.

    Args:
        path: The ring's file.
        spill: The writer's spill file.

    Raises:
        SessionError: It is no ring, of another format, or may be somebody else's.
        OSError: It cannot be opened now.

    Thread safety: one thread at a time.
    """

    def __init__(self, path: Path, spill: Path) -> None:
        try:
            fd = open_own(path, os.O_RDWR)
        except OSError as error:
            if error.errno in _AGAIN:
                raise
            raise SessionError(f"{path} is no ring of this user's: {error.strerror}") from error
        try:
            size = os.fstat(fd).st_size
            if size < MIN_BYTES:
                raise SessionError(f"{path} is no ring: it has {size} bytes")
            self._map = map_ring(fd, size, whole=False)  # of a ring that is hardly used, as most ranks' are, no more
        finally:
            os.close(fd)
        self.path, self._spill_path = path, spill
        self._view = memoryview(self._map)
        self._end = size & -8
        self._words = self._view[: self._end].cast("Q")
        if self._words[0] != MAGIC or self._words[1] != FORMAT:
            raise SessionError(f"{path} is no ring of format {FORMAT}")
        self.pid = self._words[PID]
        self._fence = threading.Lock()
        self._spill_base: int | None = None  # where the spill file begins, as the rows of the last read have shown
        self._punches = True
        self._disbelieved: dict[int, int] = {}  # by word of the header: the value that was counted as damage already
        tail, unspilled = self._words[TAIL], self._words[UNSPILLED]
        # A tail that cannot be true: what was read is zero, so the first other byte shows about where it was.
        self._sure = is_position(tail, self._end)
        self._tail = tail if self._sure else self._first_frame()
        begin, end = self._words[SPILL_BASE], self._words[SPILLED]
        # Where the reader was by its own word; else where the file begins, so that nothing in it is left out.
        self._spill = next((word for word in (unspilled, begin) if word <= end and is_spill_position(word, 0)), 0)

    @property
    def position(self) -> tuple[int, int]:
        """`(tail, spill)` as last committed."""
        return self._tail, self._spill

    @property
    def unread(self) -> int:
        """Bytes between tail and head, spill file included; 1 where that is unknown."""
        head, spill_end = self._head(give_up=False)[0], self._spill_end(give_up=False)[0]
        if head is None or spill_end is None:
            return 1
        used = head - self._tail
        return (used if used >= 0 else used + self._end - BASE) + spill_end - self._spill

    def resume(self, tail: int, spill: int) -> None:
        """Goes on where an earlier reader was, which has not come to write it into the header; see `commit`."""
        if not self._sure and is_position(tail, self._end):
            self._tail, self._sure = tail, True  # before it may lie what is to be read: nothing is zeroed
        self.commit(tail, spill)

    def read(self, max_bytes: int = 4 << 20, *, give_up: bool = False) -> Frames:
        """Rows from the committed position on; moves nothing.

        Args:
            max_bytes: About how much to take at once.
            give_up: Skip frames that cannot be believed instead of waiting for them: the writer is dead, or they
                have been wrong for seconds.

        Raises:
            OSError: The spill file cannot be read now; with `give_up` only for want of memory or descriptors.
        """
        # Before the head: what is in the spill file came after that much of the ring.
        spill_end, cut = self._spill_end(give_up=give_up)
        head, lost = self._head(give_up=give_up)
        rows: list[bytes] = []
        pos, spill, damaged, budget = self._tail, self._spill, cut + lost, max_bytes
        if head is None or spill_end is None:
            return Frames(rows, pos, spill, damaged, more=True)
        while pos != head and budget > 0:
            row, after = self._frame(pos, head)
            if after is None:
                if not give_up:
                    break
                damaged += 1
                after = self._skip(pos, head)
            elif row is not None:
                rows.append(row)
                budget -= len(row)
            pos = after
        if pos == head and spill != spill_end:
            spill, lost = self._read_spill(spill, spill_end, max(budget, 1), rows, give_up=give_up)
            damaged += lost
        return Frames(rows, pos, spill, damaged, pos != head or spill != spill_end)

    def commit(self, tail: int, spill: int) -> None:
        """The rows up to there are safe elsewhere: their room may be used again. What is no position moves nothing."""
        if is_position(tail, self._end):
            if self._tail <= tail:
                self._zero(self._tail, tail)
            else:
                self._zero(self._tail, self._end)
                self._zero(BASE, tail)
            self._tail = tail
        if is_spill_position(spill, self._spill):
            if spill > self._spill:
                self._give_back()
            self._spill = spill
        for _ in range(2):  # a fence: on a machine with weak ordering the zeros must not arrive after the tail
            with self._fence:
                pass
        self._words[TAIL], self._words[UNSPILLED] = self._tail, self._spill

    def _give_back(self) -> None:
        """Gives back the spill file's room up to the last commit: so a kill at any moment leaves what is to be read.

        Before the next commit is in the header, its writer knows of rows that are not read, and begins no new file.
        """
        if self._spill_base is None or not self._punches:
            return
        try:
            fd = open_own(self._spill_path, os.O_RDWR)
        except OSError:  # gone, or no descriptor is left: next time
            return
        try:
            self._punches = self._punch(fd, self._spill - self._spill_base)
        except OSError:  # a full disk may have no room for the note of a hole: next time
            pass
        finally:
            os.close(fd)

    def _punch(self, fd: int, end: int) -> bool:
        return punch(fd, 0, end)

    def close(self) -> None:
        """Unmaps the file."""
        # A mapping cannot be closed while a view of it is held.
        self._words.release()
        self._view.release()
        self._map.close()

    def _zero(self, start: int, end: int) -> None:
        self._map[start:end] = bytes(end - start)

    def _head(self, *, give_up: bool) -> tuple[int | None, int]:
        """`(head, damages)`; None for one that cannot be believed, and may be written anew."""
        head = self._words[HEAD]
        if is_position(head, self._end):
            return head, 0
        waits, damages = self._doubt(HEAD, head, give_up=give_up)
        return (None, 0) if waits else (self._last_frame(), damages)

    def _spill_end(self, *, give_up: bool) -> tuple[int | None, int]:
        """The same of the spill file's end."""
        end = self._words[SPILLED]
        if self._spill <= end and is_spill_position(end, self._spill):
            return end, 0
        waits, damages = self._doubt(SPILLED, end, give_up=give_up)
        if waits:
            return None, 0
        try:
            end = self._words[SPILL_BASE] + self._spill_path.stat().st_size
        except OSError:
            end = 0
        return end if self._spill < end and is_spill_position(end, self._spill) else self._spill, damages

    def _doubt(self, which: int, word: int, *, give_up: bool) -> tuple[bool, int]:
        """Whether to wait for a better word, and if not, whether it was given up just now."""
        known = self._disbelieved.get(which) == word
        if give_up:
            self._disbelieved[which] = word
        return not (known or give_up), int(give_up and not known)

    def _first_frame(self) -> int:
        """Where what is unread begins, behind the head: all else there is zero."""
        head = self._words[HEAD]
        start = head if is_position(head, self._end) else BASE
        for begin, end in ((start, self._end), (BASE, start)):
            zeros = end - begin - len(bytes(self._view[begin:end]).lstrip(b"\0"))
            if zeros < end - begin:
                return begin + (zeros & -8)
        return start

    def _last_frame(self) -> int:
        """How far believable frames lead."""
        pos = last = self._tail
        most = pos - 8 if pos > BASE else self._end  # the writer leaves a word free before the tail
        while pos != most:
            row, after = self._frame(pos, most)
            if after is None:
                break
            pos, last = after, after if row is not None else last
        return last

    def _frame(self, pos: int, head: int) -> tuple[bytes | None, int | None]:
        """`(row, next position)`; `(None, next)` for padding; `(None, None)` when it cannot be believed.

        The next position is never beyond the head, so whoever goes on there comes to it.
        """
        word = PAD if pos == self._end else self._words[pos >> 3]
        size = word & 0xFFFFFFFF
        if size == PAD:
            return None, BASE if head < pos else None
        start, after = pos + 8, pos + ((size + 15) & -8)
        # No length: its place is reserved, and its writer has not come to write it.
        if not size or after > (head if head > pos else self._end):
            return None, None
        # A copy first, and then its checksum: what was checked cannot change any more.
        row = bytes(self._view[start : start + size])
        if adler32(row) != word >> 32:
            return None, None
        return row, after

    def _skip(self, pos: int, head: int) -> int:
        """Past one unbelievable frame if its length leads to a believable one, else to the head."""
        if pos < self._end:
            after = pos + (((self._words[pos >> 3] & 0xFFFFFFFF) + 15) & -8)
            limit = head if head > pos else self._end  # behind the head lie the frames of the lap before
            if after == head or (after <= limit and self._frame(after, head)[1] is not None):
                return after
        return head

    def _read_spill(self, start: int, end: int, budget: int, rows: list[bytes], *, give_up: bool) -> tuple[int, int]:
        """Appends the spilled rows; `(position, frames lost)`. A damaged spill file is given up up to `end`."""
        base, self._spill_base = self._words[SPILL_BASE], None
        if start < base:  # the file begins behind that
            return min(base, end), 1
        try:
            with self._spill_path.open("rb") as file:
                file.seek(start - base)
                data = file.read(min(end - start, max(budget, 1 << 16)))
                pos = 0
                while pos + 8 <= len(data):
                    word = int.from_bytes(data[pos : pos + 8], "little")
                    size = word & 0xFFFFFFFF
                    if pos + 8 + size > len(data):
                        data += file.read(min(end - start - len(data), size))
                    row = data[pos + 8 : pos + 8 + size]
                    if len(row) != size or adler32(row) != word >> 32:
                        return end, 1  # where the next frame begins is lost, so all of it counts as one
                    rows.append(row)
                    self._spill_base = base
                    pos += 8 + size
                    if pos >= budget:
                        break
        except OSError as error:
            # What was deleted never comes back; anything else may be readable later.
            if not isinstance(error, FileNotFoundError) and (not give_up or error.errno in _PASSING):
                raise
            return end, 1
        return (start + pos, 0) if pos else (end, 1)  # not even a frame's header: it was cut short
