"""What found no room in the ring, nor on the disk: metrics are counted, all else waits for room, in its order."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from tailrace_agent.ipc.records import RAW, Drop, encode

if TYPE_CHECKING:
    from tailrace_agent.ipc.reasons import Reason

__all__ = ["METRICS_ROW", "Unsent"]

METRICS_ROW = 0x94
"""First byte of a metrics row, a MessagePack array of four; no control record has four fields."""


_FOLDED_AT: Final = 1000
"""Notes of lost metrics after which they become counts."""


class Unsent:
    """The rows of one process that are still to be handed over.

    Nobody waits for a lock here: `keep` runs under the lock of a ring, and a finalizer that logs in the midst of `take`
    wants that one. Notes are appended, which nothing interrupts; whoever gets the lock at once makes counts of them.

    Thread safety: every method from any thread, signal handler or finalizer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._notes: deque[tuple[int, Reason, int]] = deque()
        self._lost: dict[tuple[int, Reason], int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting or self._notes or self._lost)

    @property
    def blocked(self) -> bool:
        """Whether rows wait, which none may overtake."""
        return bool(self._waiting)

    def keep(self, row: bytes, reason: Reason) -> None:
        """Takes a row that could be put nowhere."""
        if row[0] != METRICS_ROW:
            self._waiting.append(row)
            return
        run, _, _, values = RAW.decode(row)
        self._notes.append((run, reason, len(values)))
        if len(self._notes) >= _FOLDED_AT and self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def take(self) -> list[bytes]:
        """All of it, in its order: what waits, then how many metrics were lost. Nothing while another one takes it."""
        if not self._lock.acquire(blocking=False):
            return []
        try:
            self._fold()
            lost, self._lost = self._lost, {}
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        finally:
            self._lock.release()
        return [*waiting, *(encode(Drop(run, "metric", reason, count)) for (run, reason), count in lost.items())]

    def put_back(self, rows: list[bytes]) -> None:
        """Rows that had to wait behind one that found no room again."""
        self._waiting.extend(rows)

    def _fold(self) -> None:
        for _ in range(len(self._notes)):
            run, reason, count = self._notes.popleft()
            self._lost[run, reason] = self._lost.get((run, reason), 0) + count
