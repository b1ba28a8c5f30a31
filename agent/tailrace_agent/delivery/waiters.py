"""Who waits for what was logged before to be delivered: a flush, and the end of a run.

Whoever waits gets a *barrier* when every ring was read to its end after that: all that came before has an id of at most
that one in the spool. A flush is settled when nothing up to its barrier waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager

import msgspec

from tailrace_agent.delivery.run_state import RunState

__all__ = ["Mark", "Waiters"]


class Mark(msgspec.Struct):
    """Somebody waits: `token` of `ring` is settled when no block up to `barrier` waits any more."""

    ring: str
    token: int
    barrier: int | None = None


class Waiters:
    """Those of one session, and what keeps a run from its end.

    Args:
        lock: The run book's, since a run's end and its barrier change together.
        ended: Runs whose end is known, and not yet reported to MLflow.

    Thread safety: every method from any thread; what changes anything holds the lock.
    """

    def __init__(self, lock: AbstractContextManager[object], ended: Iterable[int]) -> None:
        self._lock = lock
        self._marks: dict[int, list[Mark]] = {}
        self._settled: dict[int, dict[str, int]] = {}
        self._end_barriers: dict[int, int | None] = dict.fromkeys(ended)
        self._without = set(self._end_barriers)  # ends that have none yet
        self._stalled: dict[int, float] = {}

    # -- flushes, and ends that wait for values ----------------------------------------------------------------------

    def mark(self, run: int, ring: str, token: int) -> None:
        """Somebody waits from now on."""
        with self._lock:
            self._marks.setdefault(run, []).append(Mark(ring, token))

    def end(self, run: int) -> None:
        """A run has ended: from now on its end waits for what was accepted before."""
        with self._lock:
            self._end_barriers[run] = None
            self._without.add(run)

    def set_barriers(self, last_id: int) -> None:
        """Every ring was read to its end after the marks came: what they wait for has an id of at most `last_id`.

        The same goes for runs that have ended: what was accepted before their end is there.
        """
        with self._lock:
            self._end_barriers.update(dict.fromkeys(self._without, last_id))
            self._without.clear()
            for marks in self._marks.values():
                for mark in marks:
                    if mark.barrier is None:
                        mark.barrier = last_id

    @property
    def unset_barriers(self) -> bool:
        """Whether a mark, or the end of a run, has no barrier yet."""
        with self._lock:
            return bool(self._without) or any(mark.barrier is None for marks in self._marks.values() for mark in marks)

    def end_barrier(self, run: int) -> int | None:
        """The last block that was accepted before the run's end; None while the rings are still being read for it."""
        return self._end_barriers.get(run, 0)

    def waited_for(self, run: int) -> bool:
        """Whether somebody waits for a run."""
        return bool(self._marks.get(run))

    @property
    def awaited(self) -> bool:
        """Whether somebody waits."""
        return bool(self._marks)

    def settled(self, run: int) -> dict[str, int]:
        """The last token of each ring that was answered."""
        return dict(self._settled.get(run, {}))

    def settle(
        self, states: Mapping[int, RunState], first_waiting: Callable[[int], int | None], changed: set[int]
    ) -> bool:
        """Answers those who wait for what is no longer there; whether there were any. Adds their runs to `changed`."""
        answered = False
        with self._lock:
            for run in list(self._marks):
                state = states.get(run)
                # An end that is known and not reported yet comes first: one status then has both.
                if state is None or (state.end is not None and not (state.closed or state.refused or state.gone)):
                    continue
                first = first_waiting(run)
                marks = self._marks.pop(run)
                waiting = []
                for mark in marks:
                    # Ids only grow: what comes after the barrier is not waited for.
                    if mark.barrier is None or (first is not None and first <= mark.barrier):
                        waiting.append(mark)
                    else:
                        tokens = self._settled.setdefault(run, {})
                        # Tokens of one ring only grow, so the last one answers for all before it.
                        tokens[mark.ring] = max(mark.token, tokens.get(mark.ring, 0))
                        changed.add(run)
                        answered = True
                if waiting:
                    self._marks[run] = waiting
        return answered

    # -- ends that wait for artifacts --------------------------------------------------------------------------------

    def upload_failed(self, run: int, now: float) -> None:
        """An artifact of the run did not get through (monotonic seconds)."""
        with self._lock:
            self._stalled.setdefault(run, now)

    def uploads_work(self, run: int) -> None:
        """An artifact of the run got through."""
        with self._lock:
            self._stalled.pop(run, None)

    def uploads_stalled_since(self, run: int) -> float | None:
        """Since when no artifact of the run has got through; None while they do, or nobody has tried."""
        return self._stalled.get(run)
