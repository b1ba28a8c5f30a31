"""The ring: rows handed to `RingWriter.put` outlive the process that wrote them, at the cost of a memory copy.

Invariants
----------
1. One process writes, any number of its threads; one process reads. `put` makes no system call while there is room.
2. When `put` has returned, the row is in shared memory: a SIGKILL of either side loses nothing.
3. The reader believes a frame only when its checksum is right, so neither a torn write nor weak memory ordering is
   ever decoded; what was read is zeroed, so that no frame of an earlier lap can be taken for a new one. A frame that
   stays wrong is skipped and counted, never guessed at.
4. `tail` belongs to the reader and moves only when the reader reports the rows as safe elsewhere.
5. A full ring never blocks the writer: rows go to the spill file until the reader has caught up with it, so that the
   order of one process's rows is kept.
6. `put` takes no lock while there is room. CPython switches threads and runs signal handlers where a function is
   entered or left and where it jumps back, and nowhere else: so from the look at `off` to the frame's length no other
   caller gets in between. A finalizer (the garbage collector may run at the slice) can, and so another thread: they put
   their frames behind ours, and move the head past it, where the reader waits until our checksum is right.
7. The `log()` in C (agent/native) does the same with the GIL held throughout, so there nothing at all gets in between.
8. Where `put` finds no room it takes a lock, and `limit` sends all others there too. What re-enters it in the same
   thread (a signal handler, a finalizer) is parked. Without a GIL every call goes that way.
9. Each side keeps its own positions to itself, and publishes them in the header. It believes the other's only where
   they can be true; else the writer goes by the last ones that could, and the reader by the frames that it finds. So a
   page that was overwritten costs rows, which are counted, and nobody hangs or raises.

Format (little-endian 64-bit words)
-----------------------------------
Header page of 4096 bytes: 0 magic, 1 format, 2 end of data, 3 pid of the owner, 8 head, 9 spill bytes written, 10 of
them before the spill file's first byte, 16 tail, 17 spill bytes read. `head`/`tail` are byte offsets into the file;
equal means empty. What the writer and the reader change lies on different cache lines. All that was ever spilled is
counted, while the file begins anew whenever all of it was read. Where the file system can do that, it is a hole up to
the reader's commit before the last one: so it takes the room of what waits, also where the reader never catches up. (A
writer that never sets word 10 keeps one file, and is read as before. `FORMAT` stays, since an agent deletes the ring of
a dead program whose format it does not know.)

Frame, at a multiple of 8: one word (length in the low half, Adler-32 in the high half), then the row, then padding. A
length of `0xffffffff` means: go on at the first frame. In the spill file the same without padding.

Adler-32 and not CRC32: zlib's CRC walks through tables, which are cold between two training steps. It costs 60 ns more
in a tight loop and several times that between steps. Against torn writes, and one or two flipped bytes, both are sure.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import time_ns
from typing import Final
from zlib import adler32

from tailrace_agent.files.descriptors import open_kept, reserve
from tailrace_agent.ipc.native import Cursor
from tailrace_agent.ipc.reasons import Reason, because
from tailrace_agent.ipc.records import FORMAT
from tailrace_agent.ipc.ring_format import (
    BASE,
    END,
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

__all__ = ["RingWriter"]

_FIRST_SAMPLE: Final = 512
_SAMPLE_EVERY: Final = 16 * 1024
"""Bytes of ring between two timed calls: a handful of calls at first, about 200 later."""

_RESERVE: Final = 16 << 20
"""Bytes of the disk that metrics leave free."""
_METRICS: Final = b"\x94"
"""How a metrics row begins: a MessagePack array of four."""
_MAX_SHARE: Final = 4
"""A row larger than a quarter of the ring goes to the spill file."""
_GIL: Final[bool] = getattr(sys, "_is_gil_enabled", lambda: True)()  # before Python 3.13 there always is one

Sample = Callable[[bytes, int, int], None]


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
        on_spill: Called with a row while others wait in the spill file, and what puts it there; it calls that, or
            leaves the row out.

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
        on_drop: Callable[[bytes, Reason], None] | None = None,
        on_sample: Sample | None = None,
        on_spill: Callable[[bytes, Callable[[bytes], None]], None] | None = None,
    ) -> None:
        size = max(size, MIN_BYTES) & -8  # frames begin at multiples of 8
        fd = open_kept(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            reserve(fd, size)
            self.memory = map_ring(fd, size, whole=True)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        self.path = path
        self.words = memoryview(self.memory).cast("Q")
        self.words[END], self.words[PID] = size, os.getpid()
        self.words[HEAD] = self.words[TAIL] = BASE
        self.words[1], self.words[0] = FORMAT, MAGIC
        # Re-entrant: a signal handler or finalizer may log in the middle of a slow `put` of the same thread.
        self._lock = threading.RLock()
        self.off = self._tail = BASE
        self._spilled = self._unspilled = self._spill_base = 0
        self._stride = _FIRST_SAMPLE
        self.limit = BASE + self._stride if _GIL else -1  # -1: every call goes to `put_slowly`
        self.hard = self._end = size
        self._busy = False
        self._parked: deque[bytes] = deque()
        self._spill_path, self._spill_max, self._spill_fd = spill, spill_max, -1
        self._on_drop, self._on_sample, self._on_spill = on_drop, on_sample, on_spill
        self._closed = False

    def put(self, row: bytes) -> None:
        """Accepts one row. Returns when it is in shared memory (or in the spill file).

        Costs about 0.5 µs. Never raises for what the outside world does: see `on_drop`. The body stands once more in
        `tailrace._log.log.make_log`, word for word, and in C in agent/native/log.c: change all three.
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
        used = self.off - self._tail_seen()
        spilled, unspilled = self._spill_seen()
        return (used if used >= 0 else used + self._end - BASE) + spilled - unspilled

    def close(self) -> None:
        """Takes no more rows: those put later go to `on_drop`. The file stays for the reader."""
        with self._lock:
            # The mapping stays: another thread may be in the middle of a copy into it.
            self._closed, self.limit = True, -1
            if self._spill_fd >= 0:
                os.close(self._spill_fd)
                self._spill_fd = -1

    def put_slowly(self, row: bytes, *, timed: bool = True) -> None:
        """What becomes of a row beyond `limit`: it is sampled, goes to the first frame again, or spills.

        `timed`: it carries the time of this very call, as the rows of `log()` do.
        """
        # Without the lock, which takes as long as all that may be spared here.
        if self._on_spill is not None and self._spilled != self.words[UNSPILLED]:
            self._on_spill(row, partial(self._put_locked, timed=timed))
        else:
            self._put_locked(row, timed=timed)

    def _put_locked(self, row: bytes, *, timed: bool) -> None:
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
        # From here on all others come to the lock, and a call within this one is parked.
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
        spilled, unspilled = self._spill_seen()
        if self._closed:
            self._drop(row, "ring closed")
        # Into the ring only while nothing is spilled: it is read first, so a newer row would come before older ones.
        elif spilled == unspilled and size <= (self._end - BASE) // _MAX_SHARE and self._room(size):
            if self._spill_base != spilled:
                self._empty_spill_file(spilled)
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
            self._spill(row, spilled, unspilled)

    def _tail_seen(self) -> int:
        """How far the reader has come in the ring."""
        tail = self.words[TAIL]
        if is_position(tail, self._end):
            self._tail = tail
        return self._tail

    def _spill_seen(self) -> tuple[int, int]:
        """How far the spill file was written, and how far the reader has come in it."""
        unspilled = self.words[UNSPILLED]
        if is_spill_position(unspilled, self._spilled):
            self._unspilled = unspilled
            self._spilled = max(self._spilled, unspilled)  # the reader has given up all up to there
        # Anew each time, so that a header that something has overwritten is soon right again.
        self.words[SPILL_BASE], self.words[SPILLED] = self._spill_base, self._spilled
        return self._spilled, self._unspilled

    def _room(self, size: int) -> bool:
        """Whether a frame fits at `off`, after going back to the first frame if need be."""
        tail = self._tail_seen()
        if tail > self.off:
            # A word stays free before the tail: a head that has come to it would mean an empty ring.
            return self.off + size <= tail - 8
        if self.off + size <= self._end:
            return True
        if BASE + size > tail - 8:
            return False
        # At the very end there is no word for the mark, and the reader knows where that is.
        if self.off < self._end:
            self.words[self.off >> 3] = PAD
        self.off = BASE
        return True

    def _next_limit(self) -> int:
        spilled, unspilled = self._spill_seen()
        if spilled != unspilled or not _GIL:
            return -1
        tail = self._tail_seen()
        self.hard = tail - 8 if tail > self.off else self._end
        self._stride = min(self._stride * 2, _SAMPLE_EVERY)
        return min(self.hard, self.off + self._stride)

    def _spill(self, row: bytes, at: int, unspilled: int) -> None:
        waiting = at - unspilled
        # A record that is no metrics and larger than the bound goes alone: it would hold up all others for ever.
        if waiting + len(row) > self._spill_max and (waiting or row[:1] == _METRICS):
            return self._drop(row, "spill file at its bound")
        if row[:1] == _METRICS and self._disk_is_short():
            return self._drop(row, "disk full")
        frame = (len(row) | adler32(row) << 32).to_bytes(8, "little") + row
        try:
            if at == unspilled:
                self._begin_spill_file(at)
            # What was written of it stands behind all that counts, and the next one is written over it.
            if os.pwrite(self._spill_fd, frame, at - self._spill_base) != len(frame):
                return self._drop(row, "disk full")
        except OSError as error:
            return self._drop(row, because("spill file", error.strerror))
        # Only now that it is written: the reader believes the file up to there.
        self._spilled = self.words[SPILLED] = at + len(frame)
        return None

    def _begin_spill_file(self, at: int) -> None:
        """All of it was read: it begins anew. What was deleted under its writer is made again."""
        if self._spill_fd >= 0 and not os.fstat(self._spill_fd).st_nlink:
            os.close(self._spill_fd)
            self._spill_fd = -1
        if self._spill_fd < 0:
            self._spill_fd = open_kept(self._spill_path, os.O_RDWR | os.O_CREAT)
        self._truncate_spill_file(at)

    def _empty_spill_file(self, at: int) -> None:
        """All of it was read, and the ring has room again: gives the file's room back, however long no row spills."""
        with contextlib.suppress(OSError):  # then it is done when the next one does
            self._truncate_spill_file(at)

    def _truncate_spill_file(self, at: int) -> None:
        # Before the new base: all that was in it is safe elsewhere, so dying between the two loses nothing.
        os.ftruncate(self._spill_fd, 0)
        self._spill_base = self.words[SPILL_BASE] = at

    def _disk_is_short(self) -> bool:
        """Whether the rest of the disk is needed by what is never dropped, and by the spool itself."""
        try:
            room = os.statvfs(self._spill_path.parent)
        except OSError:  # the directory is gone: opening the file will report it
            return False
        return room.f_bavail * room.f_frsize < _RESERVE

    def _drop(self, row: bytes, reason: Reason) -> None:
        if self._on_drop is not None:
            self._on_drop(row, reason)
