"""What a search needs of the tracker that it is given, and what it does without where a tracker has no more to offer.

Any `TrackerLike` will do: it gets every run, param, metric and file. One that is a `ResumingTracker`, too, has runs
that can be called from any thread, observed, and gone on with by their ids.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, Literal

from tailrace.protocol import ResumingTracker, TrackedRun, TrackerLike

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["SearchTracker", "Status", "default_tracker"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
_MAX_MESSAGE: Final = 5000


def default_tracker() -> TrackerLike:
    """The one behind the module's functions."""
    import tailrace

    module: Any = tailrace
    tracker: TrackerLike = module
    return tracker


class SearchTracker:
    """A tracker, as a search uses it.

    Args:
        tracker: Any; None for the one of the module.
        settings: What `start_run` gets for the parent: `tracking_uri`, `experiment_name`.
        trial_settings: The same for trials whose parent is not this process's.
        tags: Of every run.

    Attributes:
        resuming: The same, where its runs are known by id.
    """

    def __init__(
        self,
        tracker: TrackerLike | None,
        settings: Mapping[str, Any] | None = None,
        trial_settings: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        given: Any = default_tracker() if tracker is None else tracker
        self._tracker: TrackerLike = given
        self._settings = {key: value for key, value in (settings or {}).items() if value is not None}
        self._trial_settings, self._tags = dict(trial_settings or {}), dict(tags or {})
        self.resuming: ResumingTracker | None = given if isinstance(given, ResumingTracker) else None

    def start_parent(self, run_name: str, run_id: str | None, tags: Mapping[str, Any]) -> TrackedRun:
        """The run above all trials; below the active one, if there is one."""
        tags = {**self._tags, **tags}
        if self.resuming is None:
            if self._settings:
                given = " and ".join(f"mlflow_{key}" for key in self._settings)
                warnings.warn(f"{given} is left to the tracker that was given", stacklevel=4)
            return _Plain(self._tracker, self._tracker.start_run(run_name=run_name, tags=tags))
        nested = self.resuming.active_run() is not None
        return self.resuming.start_run(run_id, run_name=run_name, nested=nested, tags=tags, **self._settings)

    def start_trial(self, run_name: str, parent_run_id: str | None, tags: Mapping[str, Any]) -> TrackedRun:
        """The run of a trial: below the active one, or below one of another machine."""
        tags = {**self._tags, **tags}
        if self.resuming is None:
            return _Plain(self._tracker, self._tracker.start_run(run_name=run_name, nested=True, tags=tags))
        if parent_run_id is not None:
            settings = {**self._settings, **self._trial_settings}
            return self.resuming.start_run(run_name=run_name, parent_run_id=parent_run_id, tags=tags, **settings)
        return self.resuming.start_run(run_name=run_name, nested=True, tags=tags, **self._trial_settings)

    def go_on_with_trial(self, run_id: str) -> TrackedRun:
        """The run of a trial that another process has left."""
        assert self.resuming is not None
        where = {} if self.has_active_run else self._settings
        return self.resuming.start_run(run_id, nested=True, **where, **self._trial_settings)

    @property
    def has_active_run(self) -> bool:
        """Whether a run is active here; where a tracker cannot say so, one may be."""
        return self.resuming is None or self.resuming.active_run() is not None

    def should_stop(self, run: TrackedRun | None) -> bool:
        """Whether somebody has asked a run, or the active one, to stop, as far as its tracker hears of that."""
        ask = getattr(self._tracker if run is None else run, "should_stop", None)
        return ask is not None and bool(ask())

    def find(self, filter_string: str) -> list[str]:
        """MLflow's ids of the runs that a filter finds; none where the tracker cannot search."""
        return [record.run_id for record in self._search(filter_string)]

    def not_finished(self, parent_run_id: str) -> list[Any]:
        """Records of the runs below one that are anything but FINISHED; none where the tracker cannot search."""
        return self._search(f"tags.`mlflow.parentRunId` = '{parent_run_id}' and attributes.status != 'FINISHED'")

    def _search(self, filter_string: str) -> list[Any]:
        if self.resuming is None:
            return []
        where: ResumingTracker = self.resuming
        if "tracking_uri" in self._settings:  # where the parent's run goes, and not the tracker's others
            import tailrace

            where = tailrace.Tracker(tracking_uri=self._settings["tracking_uri"])
        return list(where.search_runs(filter_string=filter_string, output_format="list", search_all_experiments=True))


class _Plain:
    """A run of a tracker that has one active run and no more: its calls go to that one."""

    id = run_id = ""

    def __init__(self, tracker: TrackerLike, entered: Any) -> None:
        self._tracker, self._entered = tracker, entered
        entered.__enter__()

    def log(self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, **values: Any) -> None:
        self._tracker.log(metrics, step=step, **values)

    def log_params(self, params: Mapping[str, Any]) -> None:
        self._tracker.log_params(params)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._tracker.set_tags(tags)

    def log_figure(self, figure: Any, artifact_file: str) -> None:
        self._tracker.log_figure(figure, artifact_file)

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        self._tracker.log_artifact(local_path, artifact_path)

    def observe(self, names: str | Iterable[str], callback: Callable[[int, dict[str, float]], object]) -> None:
        del names, callback
        warnings.warn(
            "this tracker's runs cannot be observed, so prune_on does nothing: report by trial.report()", stacklevel=5
        )

    def should_stop(self) -> bool:
        ask = getattr(self._tracker, "should_stop", None)
        return ask is not None and bool(ask())

    def end(self, status: Status = "FINISHED") -> None:
        self._tracker.end_run(status)

    def fail(self, error: BaseException) -> None:
        self.set_tags({"error.type": type(error).__qualname__, "error.message": str(error)[:_MAX_MESSAGE]})
        self.end("FAILED")
