"""What found no room in the ring, nor on the disk: metrics are counted, all else waits for room, in its order."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from tailrace_agent.ipc.records import RAW, Drop, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace_agent.ipc.reasons import Reason

__all__ = ["METRICS_ROW", "Unsent"]

METRICS_ROW = 0x94
"""First byte of a metrics row, a MessagePack array of four; no control record has four fields."""


_FOLDED_AT: Final = 1000
"""Notes of lost metrics after which they become counts."""


class Unsent:
    """The rows of one process that are still to be handed over.

    Nobody waits for a lock here: `keep` runs under the lock of a ring, and a finalizer that logs in the midst of
    `hand_over` wants that one. Notes are appended, which nothing interrupts; whoever gets the lock at once makes counts
    of them. While records wait, one thread at a time puts them, and all others leave theirs behind them.

    Thread safety: every method from any thread, signal handler or finalizer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._carrying = threading.Lock()
        self._carried: bytes | None = None
        self._waiting: deque[bytes] = deque()
        self._notes: deque[tuple[int, Reason, int]] = deque()
        self._lost: dict[tuple[int, Reason], int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting or self._notes or self._lost)

    def keep(self, row: bytes, reason: Reason) -> None:
        """Takes a row that could be put nowhere."""
        # A param, a tag or an end is never dropped: it waits, however long.
        if row[0] != METRICS_ROW:
            if row is self._carried:
                self._carried = None
                self._waiting.appendleft(row)  # it was the first, and is again
            else:
                self._waiting.append(row)
            return
        run, _, _, values = RAW.decode(row)
        # A note is not yet a count: `+=` on a dictionary's value is several steps, between which others get in.
        self._notes.append((run, reason, len(values)))
        if len(self._notes) >= _FOLDED_AT and self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def hand_over(self, row: bytes, put: Callable[[bytes], None]) -> None:
        """Puts a record behind all that waits, as far as there is room; else it waits, too.

        Args:
            row: The record.
            put: Puts a row on the ring; comes to `keep` where there is no room.
        """
        if not self and not self._carrying.locked():
            put(row)
            return
        room = True
        if self._carrying.acquire(blocking=False):
            try:
                self._waiting.extend(self._counts())
                self._waiting.append(row)
                room = self._put_all(put)
            finally:
                self._carrying.release()
        else:
            self._waiting.append(row)
        # Another one may have looked for the last time before this one was there, and the other way around.
        while room and self._waiting and self._carrying.acquire(blocking=False):
            try:
                room = self._put_all(put)
            finally:
                self._carrying.release()

    def _put_all(self, put: Callable[[bytes], None]) -> bool:
        """Puts what waits, in its order; whether there was room for all of it."""
        while self._waiting:
            self._carried = row = self._waiting.popleft()
            put(row)
            if not self._had_room():
                return False
        return True

    def _had_room(self) -> bool:
        """Whether the record that was put has not come back."""
        carried, self._carried = self._carried, None
        return carried is not None

    def _counts(self) -> list[bytes]:
        """How many metrics were lost, as records; none while another one counts them."""
        if not self._lock.acquire(blocking=False):
            return []
        try:
            self._fold()
            lost, self._lost = self._lost, {}
        finally:
            self._lock.release()
        return [encode(Drop(run, "metric", reason, count)) for (run, reason), count in lost.items()]

    def _fold(self) -> None:
        for _ in range(len(self._notes)):
            run, reason, count = self._notes.popleft()
            self._lost[run, reason] = self._lost.get((run, reason), 0) + count
