"""What a process has logged to a run and the store may not have yet, laid over what the store answers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tailrace_agent.ipc.tags import RUN_NAME_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Value", "Written", "changed", "overlaid"]

Value: TypeAlias = tuple[str, float, int, int]
"""Name, value, time (milliseconds since the epoch) and step of a metric, as MLflow's entity has them."""
_LARGEST: Final = sys.float_info.max
"""What MLflow makes of infinity."""
_ROWS_AT_MOST: Final = 64


class Written:
    """The last values of a run that were written by this process.

    Attributes:
        params, tags: Texts, by name.

    Not thread-safe: whoever has it holds a lock.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, tuple[int, int, float]] = {}
        self._rows: list[tuple[dict[str, float], int, int]] = []  # not yet in `_metrics`
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._rows or self._metrics or self.params or self.tags)

    @property
    def metrics(self) -> dict[str, tuple[int, int, float]]:
        """Step, time and value, by name: the latest is the largest."""
        self._look_through()
        return self._metrics

    def add(self, values: Iterable[Value], params: Iterable[Any], tags: Iterable[Any]) -> None:
        """What was written after all that is here: values of metrics, and MLflow's entities."""
        for value in values:
            self._take(*value)
        for param in params:
            self.params.setdefault(param.key, param.value)
        for tag in tags:
            self.tags[tag.key] = tag.value

    def add_row(self, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """Values of one step and time that were written after all that is here."""
        # Looked through when somebody reads, or many at a time: between two steps of training each by itself takes
        # five times as long.
        self._rows.append(({**metrics}, step, timestamp))
        if len(self._rows) >= _ROWS_AT_MOST:
            self._look_through()

    def _look_through(self) -> None:
        rows, self._rows = self._rows, []
        for metrics, step, timestamp in rows:
            for key, value in metrics.items():
                self._take(key, value, timestamp, step)

    def _take(self, key: str, value: float, timestamp: int, step: int) -> None:
        at = step, timestamp, max(min(value, _LARGEST), -_LARGEST)  # in this order NaN stays NaN
        if key not in self._metrics or _place(*at) >= _place(*self._metrics[key]):
            self._metrics[key] = at

    def add_all(self, later: Written) -> None:
        """The same, of another one."""
        metrics = self.metrics
        for key, at in later.metrics.items():
            if key not in metrics or _place(*at) >= _place(*metrics[key]):
                metrics[key] = at
        self.params = {**later.params, **self.params}
        self.tags |= later.tags


def overlaid(run: Any, written: Written, **changes: Any) -> Any:
    """A run of MLflow's as it will be.

    Args:
        run: What the store answered; it stays as it is.
        written: What may not be in it yet. Metrics go by MLflow's rule, the latest of step, time and value; a
            param that the store has keeps its value, as params do.
        **changes: Of its `info`.
    """
    from mlflow.entities import Metric, Param, Run, RunData, RunTag

    metrics = {metric.key: metric for metric in run.data._metric_objs}
    for key, (step, timestamp, value) in written.metrics.items():
        known = metrics.get(key)
        if known is None or _place(step, timestamp, value) >= _place(known.step, known.timestamp, known.value):
            metrics[key] = Metric(key, value, timestamp, step)
    params = {**written.params, **run.data.params}
    tags = {**run.data.tags, **written.tags}
    if name := written.tags.get(RUN_NAME_TAG):  # an empty one leaves the name as it is
        changes.setdefault("run_name", name)
    return Run(
        changed(run.info, **changes) if changes else run.info,
        RunData(
            metrics=list(metrics.values()),
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        ),
        run.inputs,
        run.outputs,
    )


def _place(step: int, timestamp: int, value: float) -> tuple[int, int, float]:
    """By which MLflow's databases know the latest of two: the largest. NaN is a zero there."""
    return step, timestamp, value if value == value else 0.0  # noqa: PLR0124 - NaN alone is not


def changed(info: Any, **changes: Any) -> Any:
    """A run's `info` with some fields changed."""
    from mlflow.entities import RunInfo

    return RunInfo(**{**dict(info), **changes})
