"""What found no room in the ring, nor on the disk: metrics are counted, all else waits for room, in its order."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tailrace_agent.ipc.records import RAW, Drop, encode

if TYPE_CHECKING:
    from tailrace_agent.ipc.reasons import Reason

__all__ = ["METRICS_ROW", "Unsent"]

METRICS_ROW = 0x94
"""First byte of a metrics row, a MessagePack array of four; no control record has four fields."""


class Unsent:
    """The rows of one process that are still to be handed over.

    Thread safety: every method from any thread, signal handler or finalizer; `keep` also under the lock of a ring.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._lost: dict[tuple[int, Reason], int] = {}
        self._waiting: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self._waiting or self._lost)

    @property
    def blocked(self) -> bool:
        """Whether rows wait, which none may overtake."""
        return bool(self._waiting)

    def keep(self, row: bytes, reason: Reason) -> None:
        """Takes a row that could be put nowhere."""
        with self._lock:
            if row[0] != METRICS_ROW:
                self._waiting.append(row)
                return
            run, _, _, values = RAW.decode(row)
            self._lost[run, reason] = self._lost.get((run, reason), 0) + len(values)

    def take(self) -> list[bytes]:
        """All of it, in its order: what waits, and then how many metrics were lost."""
        with self._lock:
            lost, self._lost = self._lost, {}
            waiting, self._waiting = self._waiting, []
        return [*waiting, *(encode(Drop(run, "metric", reason, count)) for (run, reason), count in lost.items())]

    def put_back(self, rows: list[bytes]) -> None:
        """Rows that had to wait behind one that found no room again."""
        with self._lock:
            self._waiting += rows
