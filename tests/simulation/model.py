"""MLflow, as a model: what its SQL stores do with each request, and the order in which everything arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from simulation.journal import Mark, mark_of
from tailrace_agent.errors import Refused
from tailrace_agent.ipc.records import Point
from tailrace_agent.sinks.base import Limits
from tailrace_agent.sinks.memory import MemoryRun, MemorySink

__all__ = ["Model"]

_FEW, _MANY = 50, 400
POISON = "poison"
"""What the names begin with that this store refuses, and `check` knows nothing of."""


class Model(MemorySink):
    """A store that notes what arrives for the first time, and when.

    Args:
        bulk: It may have a bulk way; then it takes so few metrics without it that the difference is soon felt.

    Attributes:
        arrivals: Metrics marks of each run in the order of their first arrival.
        on_status: Called with a run when MLflow is told its status.
    """

    def __init__(self, *, bulk: bool = False) -> None:
        super().__init__()
        self._bulk = bulk
        self.offer_bulk(there=False)
        self.arrivals: dict[str, list[Mark]] = {}
        self._known_marks: dict[str, set[Mark]] = {}
        self.on_status: Callable[[MemoryRun], None] = lambda _: None

    @property
    def limits(self) -> Limits:
        return super().limits._replace(metrics=_FEW) if self._bulk else super().limits

    def offer_bulk(self, there: bool) -> None:
        """Whether more metrics than `limits` says may come at once, from now on."""
        self.metrics_limit = _MANY if there and self._bulk else self.limits.metrics

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Point] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Sequence[tuple[str, str]] = (),
    ) -> None:
        for key in (*(p.key for p in metrics), *(key for key, _ in (*params, *tags))):
            if key.startswith(POISON):
                raise Refused(f"{key!r} is refused by this store")
        super().log_batch(run_id, metrics=metrics, params=params, tags=tags)
        known, arrived = self._known_marks.setdefault(run_id, set()), self.arrivals.setdefault(run_id, [])
        for point in metrics:
            mark = mark_of(point)
            if mark not in known:
                known.add(mark)
                arrived.append(mark)

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        super().end_run(run_id, status, end_time)
        self.on_status(self.runs[run_id])

    def marks(self, run_id: str) -> set[Mark]:
        """Every point of a run."""
        return self._known_marks.get(run_id, set())

    def of(self, mark: str) -> list[MemoryRun]:
        """The runs that carry tailrace's id, deleted ones aside."""
        return [run for run in self.runs.values() if run.tags.get("tailrace.run") == mark and not run.deleted]


def call(model: Model, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One request, executed."""
    return getattr(model, method)(*args, **kwargs)
