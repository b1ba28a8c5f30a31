"""The ring: rows handed to `RingWriter.put` outlive the process that wrote them, at the cost of a memory copy.

Invariants
----------
1. One process writes, any number of its threads; one process reads. `put` makes no system call while there is room.
2. When `put` has returned, the row is in shared memory: a SIGKILL of either side loses nothing.
3. The reader believes a frame only when its checksum is right, so neither a torn write nor weak memory ordering is
   ever decoded; what was read is zeroed, so that no frame of an earlier lap can be taken for a new one. A frame that
   stays wrong is skipped and counted, never guessed at.
4. `tail` belongs to the reader and moves only when the reader says that the rows are safe elsewhere.
5. A full ring never blocks the writer: rows go to the spill file until the reader has caught up with it, so that the
   order of one process's rows is kept.
6. `put` takes no lock while there is room. CPython switches threads and runs signal handlers where a function is
   entered or left and where it jumps back, and nowhere else: so from the look at `off` to the frame's length no other
   caller gets in between. A finalizer (the garbage collector may run at the slice) can, and so another thread: they put
   their frames behind ours, and move the head past it, where the reader waits until our checksum is right.
7. The `log()` in C (agent/native) does the same with the GIL held throughout, so there nothing at all gets in between.
8. Where `put` finds no room it takes a lock, and `limit` sends all others there too. What re-enters it in the same
   thread (a signal handler, a finalizer) is parked. Without a GIL every call goes that way.

Format (little-endian 64-bit words)
-----------------------------------
Header page of 4096 bytes: 0 magic, 1 format, 2 end of data, 3 pid of the owner, 8 head, 9 spill bytes written,
16 tail, 17 spill bytes read. `head`/`tail` are byte offsets into the file; equal means empty. What the
writer and the reader change lies on different cache lines.

Frame, at a multiple of 8: one word (length in the low half, Adler-32 in the high half), then the row, then padding. A
length of `0xffffffff` means: go on at the first frame. In the spill file the same without padding.

Adler-32 and not CRC32: zlib's CRC walks through tables, which are cold between two training steps. It costs 60 ns more
in a tight loop and several times that between steps. Against torn writes, and one or two flipped bytes, both are sure.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from typing import Final, NamedTuple
from zlib import adler32

from tailrace_agent.descriptors import map_kept, open_kept, reserve
from tailrace_agent.errors import SessionError
from tailrace_agent.native import Cursor
from tailrace_agent.ownership import open_own
from tailrace_agent.records import FORMAT

__all__ = ["HEAD", "MIN_BYTES", "Frames", "RingReader", "RingWriter"]

_MAGIC: Final = int.from_bytes(b"tailrace", "little")
_BASE: Final = 4096
_END, _PID, HEAD, _SPILLED, _TAIL, _UNSPILLED = 2, 3, 8, 9, 16, 17
_PAD: Final = 0xFFFFFFFF
_FIRST_SAMPLE: Final = 512
_SAMPLE_EVERY: Final = 16 * 1024
"""Bytes of ring between two timed calls: a handful of calls at first, about 200 later."""

MIN_BYTES: Final = 64 * 1024
_RESERVE: Final = 16 << 20
"""Bytes of the disk that metrics leave free."""
_METRICS: Final = b"\x94"
"""How a metrics row begins: a MessagePack array of four."""
_MAX_SHARE: Final = 4
"""A row larger than a quarter of the ring goes to the spill file."""

_GIL: Final[bool] = getattr(sys, "_is_gil_enabled", lambda: True)()

Sample = Callable[[bytes, int, int], None]


def _map(fd: int, size: int) -> mmap.mmap:
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    return map_kept(fd, size, flags)


class RingWriter(Cursor):
    """The training process's end.

    Args:
        path: File to create; its room is reserved at once, so that a full `/dev/shm` is an error here and not a
            SIGBUS later.
        size: Bytes of the file, header included.
        spill: File that takes rows while the ring is full. Created at the first need.
        spill_max: Bytes that the spill file may hold before rows are given up.
        on_drop: Called with a row that could be put nowhere, and the reason.
        on_sample: Called about once in 200 rows with the row, `time_ns()` when it was encoded, and the nanoseconds
            that the copy took. (With C: when it was put, and 0.) A row that no `log()` brings comes with 0 and 0.

    Attributes:
        off: Where the next frame begins.
        limit: How far it may reach; beyond it, `put_slowly` finds another place.
        hard: How far there is room while `limit`, which sends some calls to be timed, is not negative.
        memory: The file as bytes. These four are `Cursor`'s, where the hot path in C finds them.
        words: The file as 64-bit words.

    Raises:
        OSError: The room cannot be had.

    Thread safety: `put` from any thread, signal handler or finalizer of this process. Not after a fork: make a new one.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        spill: Path,
        *,
        spill_max: int = 1 << 30,
        on_drop: Callable[[bytes, str], None] | None = None,
        on_sample: Sample | None = None,
    ) -> None:
        size = max(size, MIN_BYTES) & -8
        fd = open_kept(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            reserve(fd, size)
            self.memory = _map(fd, size)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        self.path = path
        self.words = memoryview(self.memory).cast("Q")
        self.words[_END], self.words[_PID] = size, os.getpid()
        self.words[HEAD] = self.words[_TAIL] = _BASE
        self.words[1], self.words[0] = FORMAT, _MAGIC
        self._lock = threading.RLock()
        self.off = _BASE
        self._stride = _FIRST_SAMPLE
        self.limit = _BASE + self._stride if _GIL else -1
        self.hard = self._end = size
        self._busy = False
        self._parked: deque[bytes] = deque()
        self._spill_path, self._spill_max, self._spill_fd = spill, spill_max, -1
        self._on_drop, self._on_sample = on_drop, on_sample
        self._closed = False

    def put(self, row: bytes) -> None:
        """Accepts one row. Returns when it is in shared memory (or in the spill file).

        Costs about 0.5 µs. Never raises for what the outside world does: see `on_drop`. The body stands once more in
        `tailrace._hot.make_log`, word for word, and in C in agent/native/log.c: change all three.
        """
        size = len(row)
        word = size | adler32(row) << 32
        # One line, so that not even a tracer written in Python gets between the look and the reservation.
        if (end := (off := self.off) + ((size + 15) & -8)) <= self.limit: self.off = end  # noqa: E701  # fmt: skip
        else:
            return self.put_slowly(row, timed=False)
        words = self.words
        words[off >> 3] = word
        off += 8
        self.memory[off : off + size] = row
        words[HEAD] = self.off
        return None

    @property
    def unread(self) -> int:
        """Bytes that the agent has not taken over yet."""
        used = self.off - self.words[_TAIL]
        spilled = self.words[_SPILLED] - self.words[_UNSPILLED]
        return (used if used >= 0 else used + self._end - _BASE) + spilled

    def close(self) -> None:
        """Forgets the mapping; the file stays for the reader. Rows put later go to `on_drop`."""
        with self._lock:
            self._closed, self.limit = True, -1
            if self._spill_fd >= 0:
                os.close(self._spill_fd)
                self._spill_fd = -1

    def put_slowly(self, row: bytes, *, timed: bool = True) -> None:
        """What becomes of a row beyond `limit`: it is sampled, goes to the first frame again, or spills.

        `timed`: it carries the time of this very call, as the rows of `log()` do.
        """
        with self._lock:
            if self._busy:  # re-entered in this thread: the outer call takes it along before it returns
                self._parked.append(row)
            else:
                self._make_room_for(row, timed=timed)

    def sampled(self, row: bytes, done: int) -> None:
        """Notes a timed call whose row the hot path in C has put by itself, at the time `done`."""
        with self._lock:
            if not self._busy:
                self._make_room_for(row, done=done)

    def _make_room_for(self, row: bytes, *, timed: bool = True, done: int = 0) -> None:
        entered = time_ns() if timed else 0
        self._busy, self.limit = True, -1
        try:
            if not done:
                self._place(row, entered)
            elif self._on_sample is not None:
                self._on_sample(row, done, 0)
            self._place_parked()
        finally:
            try:  # nothing but this, since a second Ctrl-C may strike right behind it
                self._busy = False
            finally:
                self.limit = -1 if self._closed or self._parked else self._next_limit()

    def _place_parked(self) -> None:
        while self._parked:
            self._place(self._parked[0], 0)
            self._parked.popleft()  # only now: its `put` has returned, so an interruption must not lose it

    def _place(self, row: bytes, entered: int) -> None:
        size = (len(row) + 15) & -8
        spilled = self.words[_SPILLED]
        if self._closed:
            self._drop(row, "ring closed")
        elif spilled == self.words[_UNSPILLED] and size <= (self._end - _BASE) // _MAX_SHARE and self._room(size):
            length, words = len(row), self.words
            word = length | adler32(row) << 32
            started = time_ns()
            off = self.off
            self.off = off + size  # from here to the head no call, as in `put`: Ctrl-C must not leave a hole
            words[off >> 3] = word
            off += 8
            self.memory[off : off + length] = row
            words[HEAD] = self.off
            if self._on_sample is not None:
                self._on_sample(row, entered, time_ns() - started if entered else 0)
        else:
            self._spill(row, spilled)

    def _room(self, size: int) -> bool:
        """Whether a frame fits at `off`, after going back to the first frame if need be."""
        tail = self.words[_TAIL]
        if tail > self.off:
            return self.off + size <= tail - 8
        if self.off + size <= self._end:
            return True
        if _BASE + size > tail - 8:
            return False
        if self.off < self._end:
            self.words[self.off >> 3] = _PAD
        self.off = _BASE
        return True

    def _next_limit(self) -> int:
        if self.words[_SPILLED] != self.words[_UNSPILLED] or not _GIL:
            return -1
        tail = self.words[_TAIL]
        self.hard = tail - 8 if tail > self.off else self._end
        self._stride = min(self._stride * 2, _SAMPLE_EVERY)
        return min(self.hard, self.off + self._stride)

    def _spill(self, row: bytes, at: int) -> None:
        if at - self.words[_UNSPILLED] + len(row) > self._spill_max:
            return self._drop(row, "spill file at its bound")
        if row[:1] == _METRICS and self._disk_is_short():
            return self._drop(row, "disk full")
        frame = (len(row) | adler32(row) << 32).to_bytes(8, "little") + row
        try:
            if self._spill_fd < 0:
                self._spill_fd = open_kept(self._spill_path, os.O_RDWR | os.O_CREAT)
            if at == self.words[_UNSPILLED]:  # all of it was read: give its blocks back, keep counting offsets
                os.ftruncate(self._spill_fd, 0)
            if os.pwrite(self._spill_fd, frame, at) != len(frame):
                return self._drop(row, "disk full")
        except OSError as error:
            return self._drop(row, f"spill file: {error.strerror}")
        self.words[_SPILLED] = at + len(frame)
        return None

    def _disk_is_short(self) -> bool:
        """Whether the rest of the disk is needed by what is never dropped, and by the spool itself."""
        try:
            room = os.statvfs(self._spill_path.parent)
        except OSError:  # the directory is gone: opening the file will say so
            return False
        return room.f_bavail * room.f_frsize < _RESERVE

    def _drop(self, row: bytes, reason: str) -> None:
        if self._on_drop is not None:
            self._on_drop(row, reason)


class Frames(NamedTuple):
    """What one read found.

    Attributes:
        rows: The rows, in the order in which they were put.
        tail: Where the ring was read to.
        spill: Where the spill file was read to.
        damaged: Frames that were skipped because they cannot be believed.
        more: True when there was more than was asked for.
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
        SessionError: It is no ring, or of another format.
        OSError: It cannot be opened, or may be somebody else's.

    Thread safety: one thread at a time.
    """

    def __init__(self, path: Path, spill: Path) -> None:
        fd = open_own(path, os.O_RDWR)
        try:
            size = os.fstat(fd).st_size
            if size < MIN_BYTES:
                raise SessionError(f"{path} is no ring: it has {size} bytes")
            self._map = _map(fd, size)
        finally:
            os.close(fd)
        self.path, self._spill_path = path, spill
        self._view = memoryview(self._map)
        self._words = self._view[: size & -8].cast("Q")
        if self._words[0] != _MAGIC or self._words[1] != FORMAT or not _BASE < self._words[_END] <= size:
            raise SessionError(f"{path} is no ring of format {FORMAT}")
        self._end: int = self._words[_END]
        self._fence = threading.Lock()

    @property
    def pid(self) -> int:
        """Process id of the writer."""
        return self._words[_PID]

    @property
    def position(self) -> tuple[int, int]:
        """`(tail, spill)` as last committed."""
        return self._words[_TAIL], self._words[_UNSPILLED]

    @property
    def unread(self) -> int:
        """Bytes between tail and head, spill file included."""
        used = self._words[HEAD] - self._words[_TAIL]
        spilled = self._words[_SPILLED] - self._words[_UNSPILLED]
        return (used if used >= 0 else used + self._end - _BASE) + spilled

    def read(self, max_bytes: int = 4 << 20, *, give_up: bool = False) -> Frames:
        """Rows from the committed position on; moves nothing.

        Args:
            max_bytes: About how much to take at once.
            give_up: Skip frames that cannot be believed instead of waiting for them: the writer is dead, or they
                have been wrong for seconds.
        """
        spill_end = self._words[_SPILLED]  # before head: what is in the spill file came after that much of the ring
        head = self._words[HEAD]
        rows: list[bytes] = []
        pos, damaged, budget = self._words[_TAIL], 0, max_bytes
        while pos != head and budget > 0:
            row, after = self._frame(pos)
            if after is None:
                if not give_up:
                    break
                damaged += 1
                after = self._skip(pos, head)
            elif row is not None:
                rows.append(row)
                budget -= len(row)
            pos = after
        spill = self._words[_UNSPILLED]
        if pos == head and spill != spill_end:
            spill, lost = self._read_spill(spill, spill_end, max(budget, 1), rows)
            damaged += lost
        return Frames(rows, pos, spill, damaged, pos != head or spill != spill_end)

    def commit(self, tail: int, spill: int) -> None:
        """The rows up to there are safe elsewhere: their room may be used again."""
        before = self._words[_TAIL]
        if _BASE <= before <= tail <= self._end:
            self._zero(before, tail)
        elif _BASE <= tail < before <= self._end:
            self._zero(before, self._end)
            self._zero(_BASE, tail)
        for _ in range(2):  # a fence: on a machine with weak ordering the zeros must not arrive after the tail
            with self._fence:
                pass
        self._words[_TAIL] = tail
        self._words[_UNSPILLED] = spill

    def close(self) -> None:
        """Unmaps the file."""
        self._words.release()
        self._view.release()
        self._map.close()

    def _zero(self, start: int, end: int) -> None:
        self._map[start:end] = bytes(end - start)

    def _frame(self, pos: int) -> tuple[bytes | None, int | None]:
        """`(row, next position)`; `(None, next)` for padding; `(None, None)` when it cannot be believed."""
        if pos == self._end:
            return None, _BASE
        if pos % 8 or not _BASE <= pos < self._end:
            return None, None
        word = self._words[pos >> 3]
        size = word & 0xFFFFFFFF
        if size == _PAD:
            return None, _BASE
        start = pos + 8
        if not size or start + size > self._end:
            return None, None
        row = bytes(self._view[start : start + size])
        if adler32(row) != word >> 32:
            return None, None
        return row, pos + ((size + 15) & -8)

    def _skip(self, pos: int, head: int) -> int:
        """Past one unbelievable frame if its length leads to a believable one, else to the head."""
        if pos % 8 == 0 and _BASE <= pos < self._end:
            after = pos + (((self._words[pos >> 3] & 0xFFFFFFFF) + 15) & -8)
            limit = head if head > pos else self._end  # behind the head lie the frames of the lap before
            if after == head or (after <= limit and self._frame(after)[1] is not None):
                return after
        return head

    def _read_spill(self, start: int, end: int, budget: int, rows: list[bytes]) -> tuple[int, int]:
        """Appends the spilled rows; `(position, frames lost)`. A damaged spill file is given up up to `end`."""
        try:
            with self._spill_path.open("rb") as file:
                file.seek(start)
                data = file.read(min(end - start, max(budget, 1 << 16)))
                pos = 0
                while pos + 8 <= len(data):
                    word = int.from_bytes(data[pos : pos + 8], "little")
                    size = word & 0xFFFFFFFF
                    if pos + 8 + size > len(data):
                        data += file.read(min(end - start - len(data), size))
                    row = data[pos + 8 : pos + 8 + size]
                    if len(row) != size or adler32(row) != word >> 32:
                        return end, 1
                    rows.append(row)
                    pos += 8 + size
                    if pos >= budget:
                        break
        except FileNotFoundError:
            return end, 1
        return (start + pos, 0) if pos else (end, 1)  # not even a frame's header: it was cut short
