"""Of several threads that go through the same runs, one serves a run at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Claims"]


class Claims:
    """The runs that are being served. Thread safety: every method from any thread.

    Example:
        >>> claims = Claims()
        >>> with claims.serving(7, lambda _: True) as ours, claims.serving(7, lambda _: True) as twice:
        ...     ours, twice
        (True, False)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: set[int] = set()

    @contextmanager
    def serving(self, run: int, wanted: Callable[[int], bool]) -> Iterator[bool]:
        """Whether it is this thread that serves the run meanwhile: another one has it, or it is not `wanted` any more.

        Args:
            run: tailrace's id of it.
            wanted: Asked with the number of other runs that are being served; it takes no lock.
        """
        with self._lock:
            ours = run not in self._served and wanted(len(self._served))
            if ours:
                self._served.add(run)
        try:
            yield ours
        finally:
            if ours:
                with self._lock:
                    self._served.discard(run)
