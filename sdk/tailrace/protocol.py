"""What an engine may expect of the tracker that it is given: little enough to be written again for a test.

`Tracker` satisfies it, delivered or not: with tracking off the same calls are there, and do next to nothing. So does
the module `tailrace`. `TrackerLike` is what an engine needs; what it can do with more stands in the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = [
    "KnowsActiveRun",
    "LoadsModels",
    "LogsModels",
    "LogsTables",
    "ReadsRuns",
    "ResumingTracker",
    "TrackedRun",
    "TrackerLike",
]


@runtime_checkable
class TrackerLike(Protocol):
    """A tracker, as an engine sees it.

    No call waits for a server or raises for what the outside world does.

    Example:
        >>> def train(tracker: TrackerLike, config: dict) -> None:
        ...     with tracker.start_run(run_name=config["name"]):
        ...         tracker.log_config(config)
        ...         for step, loss in enumerate(steps(config)):
        ...             tracker.log({"train/loss": loss}, step=step)
    """

    def start_run(
        self, *, run_name: str | None = None, nested: bool = False, tags: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Any]:
        """Starts a run; as a context manager it ends it, too."""

    def end_run(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """Ends the active run, if there is one."""

    def log(self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, **values: Any) -> None:
        """Metrics of one step."""

    def log_params(self, params: Mapping[str, Any]) -> object:
        """Params, nested or not; what it returns, nobody looks at."""

    def log_config(self, config: Any) -> None:
        """A whole configuration: as params, and as a file."""

    def set_tags(self, tags: Mapping[str, Any]) -> object:
        """Tags; what it returns, nobody looks at."""

    def log_figure(self, figure: Any, artifact_file: str) -> None:
        """A matplotlib or plotly figure."""

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """A file or a directory."""


class TrackedRun(Protocol):
    """A run as a `ResumingTracker` gives it: it can be called from any thread, whichever run is the active one."""

    @property
    def id(self) -> str:
        """The tracker's own id of the run, known at once."""

    @property
    def run_id(self) -> str:
        """MLflow's id; waits until MLflow has created the run, and raises `TimeoutError` when that takes too long."""

    def log(self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, **values: Any) -> None:
        """Metrics of one step."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Params, nested or not."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Tags."""

    def log_figure(self, figure: Any, artifact_file: str) -> None:
        """A matplotlib or plotly figure."""

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """A file or a directory."""

    def observe(self, names: str | Iterable[str], callback: Callable[[int, dict[str, float]], object]) -> None:
        """Calls back with step and values after each `log()` that holds one of these; what that raises comes out."""

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """Ends it."""

    def fail(self, error: BaseException) -> None:
        """Ends it as FAILED, with the error as tags."""


@runtime_checkable
class ResumingTracker(Protocol):
    """A tracker whose runs are known by their ids: gone on with later, and nested under from another machine.

    A search goes on with the same parent run by it, and its trials are stopped by what they log.
    """

    def start_run(
        self,
        run_id: str | None = None,
        *,
        run_name: str | None = None,
        nested: bool = False,
        parent_run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> TrackedRun:
        """Starts a run, or goes on with one."""

    def active_run(self) -> TrackedRun | None:
        """The active run of this thread or task."""

    def search_runs(
        self, *, filter_string: str = "", output_format: Literal["list"], search_all_experiments: bool = False
    ) -> Any:
        """Records of the runs that a filter in MLflow's language finds, each with its `run_id`."""


@runtime_checkable
class KnowsActiveRun(Protocol):
    """A tracker that can say whether a run is active: what is started inside of one joins it."""

    def active_run(self) -> Any:
        """The active run, or None."""


@runtime_checkable
class LogsTables(Protocol):
    """A tracker that takes tables."""

    def log_dataframe(self, df: Any, name: str, format: Literal["parquet", "csv"] | None = None) -> None:  # noqa: A002
        """A frame, or columns by name, as one file."""


@runtime_checkable
class LogsModels(Protocol):
    """A tracker that takes models."""

    def log_model(
        self,
        model: Any,
        name: str = "model",
        *,
        input_example: Any = None,
        registered_model_name: str | None = None,
        flavor: str | None = None,
    ) -> Any:
        """A model as it is now; what is returned has `wait()`, `version` and `error`."""


@runtime_checkable
class LoadsModels(Protocol):
    """A tracker that gives models back."""

    def load_model(self, name: str, *, pyfunc: bool = False) -> Any:
        """A model by its URI (`models:/…`, `runs:/…`)."""


@runtime_checkable
class ReadsRuns(Protocol):
    """A tracker that gives back what it was given."""

    def get_run_info(self, run_id: str) -> Any:
        """A run, with its last `metrics` by name."""
