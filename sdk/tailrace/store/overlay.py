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


class Written:
    """The last values of a run that were written by this process.

    Attributes:
        metrics: Step, time and value, by name: the latest is the largest.
        params, tags: Texts, by name.

    Not thread-safe: whoever has it holds a lock.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, tuple[int, int, float]] = {}
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.metrics or self.params or self.tags)

    def add(self, values: Iterable[Value], params: Iterable[Any], tags: Iterable[Any]) -> None:
        """What was written after all that is here: values of metrics, and MLflow's entities."""
        latest = self.metrics
        for key, value, timestamp, step in values:
            at = step, timestamp, max(min(value, _LARGEST), -_LARGEST)  # in this order NaN stays NaN
            if key not in latest or at >= latest[key]:
                latest[key] = at
        for param in params:
            self.params.setdefault(param.key, param.value)
        for tag in tags:
            self.tags[tag.key] = tag.value

    def add_row(self, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """Values of one step and time that were written after all that is here."""
        self.add(((key, value, timestamp, step) for key, value in metrics.items()), (), ())

    def add_all(self, later: Written) -> None:
        """The same, of another one."""
        for key, at in later.metrics.items():
            if key not in self.metrics or at >= self.metrics[key]:
                self.metrics[key] = at
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
        if known is None or (step, timestamp, value) >= (known.step, known.timestamp, known.value):
            metrics[key] = Metric(key, value, timestamp, step)
    params = {**written.params, **run.data.params}
    tags = {**run.data.tags, **written.tags}
    if RUN_NAME_TAG in written.tags:
        changes.setdefault("run_name", written.tags[RUN_NAME_TAG])
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


def changed(info: Any, **changes: Any) -> Any:
    """A run's `info` with some fields changed."""
    from mlflow.entities import RunInfo

    return RunInfo(**{**dict(info), **changes})
