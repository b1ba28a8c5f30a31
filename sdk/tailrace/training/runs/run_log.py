"""The run that a training or an evaluation logs to: the active one, or one of its own; on any `TrackerLike`.

What a tracker lacks is left out, with one warning for each thing that it lacks.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from typing import TYPE_CHECKING, Any

from tailrace.protocol import KnowsActiveRun, LogsModels, LogsTables
from tailrace.training.runs.tracked_run import TrackedRun, entered
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tailrace.protocol import TrackerLike

__all__ = ["RunLog", "default_tracker", "has_active_run", "open_run", "warn"]


def default_tracker() -> TrackerLike:
    """tailrace itself: the tracker of its module-level functions."""
    import tailrace

    return tailrace


def warn(text: str) -> None:
    """A warning, where all of tailrace's go: the logger `tailrace`."""
    logging.getLogger("tailrace").warning("tailrace: %s", text)


def has_active_run(tracker: TrackerLike) -> bool:
    """Whether a run is active; of a tracker that cannot say so, none is."""
    return isinstance(tracker, KnowsActiveRun) and tracker.active_run() is not None


class RunLog:
    """A run in progress.

    Args:
        target: Takes everything: a tracker, whose run is active, or a run.
        run: What the tracker calls the run.
    """

    def __init__(self, target: Any, run: Any) -> None:
        self._target, self._run = target, run
        self._lacking: set[str] = set()

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Metrics of one step."""
        if metrics:
            self._target.log(metrics, step=step)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Params."""
        self._target.log_params(params)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """A whole configuration."""
        self._target.log_config(config)

    def log_figure(self, figure: Any, file: str) -> None:
        """A figure, if there is one."""
        if figure is not None:
            self._target.log_figure(figure, file)

    def log_table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """A table, by its columns, as CSV: a second one of the same name takes the place of the first."""
        if isinstance(self._target, LogsTables):
            self._target.log_dataframe(dict(columns), file, "csv")
        else:
            self._lacks("log_dataframe", "tables are")

    def log_model(self, model: Any, *, input_example: Any, register: str | None, flavor: str | None) -> Any:
        """A model as `model`; registered under a name, if there is one. Returns the tracker's handle, or None."""
        if isinstance(self._target, LogsModels):
            return self._target.log_model(
                model, "model", input_example=input_example, registered_model_name=register, flavor=flavor
            )
        self._lacks("log_model", "the model is")
        return None

    def mlflow_id(self) -> str | None:
        """MLflow's id of the run, which is waited for; None where there is none."""
        return TrackedRun(self._target, run=self._run).run_id()

    def _lacks(self, call: str, what: str) -> None:
        if call not in self._lacking:
            self._lacking.add(call)
            warn(f"{type(self._target).__name__} has no {call}(): {what} left out")


@contextlib.contextmanager
def open_run(
    tracker: TrackerLike,
    run_name: str | None,
    *,
    run_id: str | None = None,
    otherwise: str | None = None,
    below: str | None = None,
) -> Iterator[RunLog]:
    """Joins the active run, also one of MLflow's own; or starts one and ends it, FAILED when an exception goes through.

    Args:
        tracker: Takes everything.
        run_name: Of a run that is started.
        run_id: Goes on with the run of this id, whichever is active.
        otherwise: Goes on with the run of this id where none is active.
        below: Starts a run below that of this id, whichever is active.

    Raises:
        CallError: It is no tracker, or one that cannot go on with a run.
    """
    if not hasattr(tracker, "start_run"):
        raise CallError(f"tracker is {type(tracker).__name__}, which has no start_run(): see tailrace.TrackerLike")
    active = tracker.active_run() if isinstance(tracker, KnowsActiveRun) else None
    if active is not None and run_id is not None and run_id == active.run_id:
        run_id = None
    able: Any = tracker
    takes = inspect.signature(able.start_run).parameters
    goes_on = run_id or (otherwise if active is None else None)
    if below is not None and "parent_run_id" in takes:
        starting = able.start_run(run_name=run_name, parent_run_id=below, nested=active is not None)
    elif goes_on is not None and "run_id" in takes:
        starting = able.start_run(run_id=goes_on, nested=active is not None)
    elif run_id is not None:
        raise CallError(f"{type(tracker).__name__} cannot go on with run {run_id}: its start_run() takes no run_id")
    else:
        with entered(tracker, run_name=run_name, resumed=None) as joined:
            yield RunLog(joined.target, joined.run)
        return
    with starting as handle:
        yield RunLog(tracker, handle)
