"""wandb's steps: counted by calls, never going back, and rows that are put together by several calls.

* A call without a step is a row by itself, and the next one gets the next step.
* `commit=False` keeps what is logged until the row is complete; a later value of a name takes the place of an earlier.
* With a step, what is logged goes to that step at once. A lower one than the last is ignored, with a warning.
* `define_metric("val/*", step_metric="epoch")`: such metrics have the value of `epoch` for their step in MLflow, where
  that is a whole number.

Thread safety: every method from any thread; one lock, under which nothing is logged.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from tailrace.wandb._guard import VOICE
from tailrace.wandb._values import number_of

__all__ = ["Metric", "Row", "Steps", "without_steps_of_their_own"]

_STEPS: Final = 2**63
"""MLflow's steps are lower, and not below the negative of it."""
_NOTE: Final = "wandb.step_metrics"


class Row(NamedTuple):
    """What is to be logged at one of wandb's steps."""

    step: int
    values: dict[str, Any]


class Metric:
    """What `define_metric` has returned: a definition.

    Attributes:
        name: The metric's, or `val/*` for all that begin with `val/`.
        step_metric: The metric whose value is its step; None for wandb's own.
        summary: What the summary has of it beside the last value: `min`, `max`, `mean`.
    """

    def __init__(self, name: str, step_metric: str | None = None, summary: frozenset[str] = frozenset()) -> None:
        self.name, self.step_metric, self.summary = name, step_metric, summary

    def fits(self, key: str) -> bool:
        """Whether it is about this metric."""
        return key == self.name or (self.name.endswith("*") and key.startswith(self.name[:-1]))


class Steps:
    """The steps of one run.

    Args:
        step: The first one.

    Attributes:
        step: That of the next call without one.
    """

    def __init__(self, step: int = 0) -> None:
        self.step = step
        self._pending: dict[str, Any] = {}
        self._metrics: list[Metric] = []
        self._latest: dict[str, Any] = {}
        self._lock = threading.Lock()

    def define(self, metric: Metric) -> None:
        """Takes a definition; of several that fit, one with the very name is stronger than a pattern."""
        with self._lock:
            metrics = [each for each in self._metrics if each.name != metric.name]
            self._metrics = sorted([*metrics, metric], key=lambda each: each.name.endswith("*"))

    def noted(self) -> dict[str, str]:
        """The tag that says which metrics have a step of their own, and by which."""
        with self._lock:
            return {_NOTE: json.dumps({each.name: each.step_metric for each in self._metrics if each.step_metric})}

    def defined(self, key: str) -> Metric | None:
        """The definition of a metric."""
        return next((metric for metric in self._metrics if metric.fits(key)), None)

    def take(self, values: Mapping[str, Any], step: Any = None, commit: bool | None = None) -> list[Row]:
        """One call; the rows that are complete with it."""
        with self._lock:
            rows: list[Row] = []
            if step is not None:
                step = int(step)
                if step < self.step:
                    VOICE.warn(
                        f"wandb.log: step {step} is lower than {self.step}, which was logged before: it is ignored, as "
                        "wandb does. define_metric() gives metrics a step of their own",
                        once="lower step",
                    )
                    return rows
                if step > self.step:
                    rows += self._complete()
                    self.step = step
            self._pending.update(values)
            # With a step and nothing said of `commit` wandb keeps the row, too; here it need not outlive the process.
            if commit is not False:
                rows += self._complete()
            if commit or (commit is None and step is None):
                self.step += 1
            return rows

    def rest(self) -> list[Row]:
        """What was not committed yet."""
        with self._lock:
            return self._complete()

    def placed(self, row: Row) -> dict[int, dict[str, Any]]:
        """Its values by their steps in MLflow."""
        if not self._metrics:
            return {row.step: row.values}
        with self._lock:
            self._latest.update({key: row.values[key] for key in row.values if self._is_step(key)})
            placed: dict[int, dict[str, Any]] = {}
            for key, value in row.values.items():
                placed.setdefault(self._step_of(key, row.step), {})[key] = value
            return placed

    def _complete(self) -> list[Row]:
        if not self._pending:
            return []
        values, self._pending = self._pending, {}
        return [Row(self.step, values)]

    def _is_step(self, key: str) -> bool:
        return any(metric.step_metric == key for metric in self._metrics)

    def _step_of(self, key: str, step: int) -> int:
        metric = self.defined(key)
        if metric is None or metric.step_metric is None or metric.step_metric == key:
            return step
        at = self._latest.get(metric.step_metric)
        number = number_of(at)
        if number is not None and number.is_integer() and -_STEPS <= number < _STEPS:
            return int(number)
        if at is not None:
            VOICE.warn(
                f"wandb.define_metric: {metric.step_metric!r} is {at!r}, and MLflow's steps are whole numbers: "
                f"{key!r} keeps wandb's step",
                once=("step_metric", metric.step_metric),
            )
        return step


def without_steps_of_their_own(keys: Iterable[str], tags: Mapping[str, str]) -> list[str]:
    """Of an earlier program's metrics those that have wandb's steps.

    Args:
        keys: Their names.
        tags: Of the run.
    """
    try:
        steps = Steps()
        for name, step_metric in json.loads(tags.get(_NOTE, "{}")).items():
            steps.define(Metric(name, step_metric))
    except (ValueError, AttributeError):  # somebody else's tag
        return list(keys)
    own = [(key, steps.defined(key)) for key in keys]
    return [key for key, metric in own if metric is None or metric.step_metric == key]
