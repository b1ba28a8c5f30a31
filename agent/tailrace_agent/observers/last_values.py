"""The latest value of every metric of every run, in bounded memory. Knows nothing of who reads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

__all__ = ["LastValues", "Value"]

_MOST_OF_RUN: Final = 5_000
_MOST: Final = 50_000


class Value(NamedTuple):
    """A metric's latest value, with its step and the time of its call."""

    value: float
    step: int
    time_ns: int


class LastValues:
    """Remembers.

    Attributes:
        left_out: Metrics that found no room. Those that have it are kept up to date.

    Thread safety: every method from any thread.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._runs: dict[int, dict[str, Value]] = {}
        self._progress: dict[int, Value] = {}
        self._size = 0
        self._lock = threading.Lock()

    def saw(self, run: int, step: int, time_ns: int, values: Mapping[str, float], *, system: bool) -> None:
        """A row passes by."""
        with self._lock:
            if not system:
                self._progress[run] = Value(0.0, step, time_ns)
            known = self._runs.setdefault(run, {})
            for key, value in values.items():
                before = known.get(key)
                if before is None:
                    if len(known) >= _MOST_OF_RUN or self._size >= _MOST:
                        self.left_out += 1
                        continue
                    self._size += 1
                elif before.time_ns > time_ns:  # from another process's ring
                    continue
                known[key] = Value(float(value), step, time_ns)

    def of(self, run: int) -> dict[str, Value]:
        """A run's metrics."""
        with self._lock:
            return dict(self._runs.get(run, {}))

    def progress(self, run: int) -> Value | None:
        """Step and time of the last row that training itself has logged."""
        return self._progress.get(run)  # no lock: one look-up, of a value that is never changed

    def keep_only(self, runs: Iterable[int]) -> None:
        """Forgets all other runs."""
        with self._lock:
            for run in self._runs.keys() - set(runs):
                self._size -= len(self._runs.pop(run))
                self._progress.pop(run, None)
