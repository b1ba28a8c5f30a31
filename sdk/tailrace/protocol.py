"""What an engine may expect of the tracker that it is given: little enough to be written again for a test.

`Tracker` satisfies it, delivered or not: with tracking off the same calls are there, and do next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = ["TrackerLike"]


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

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Params, nested or not."""

    def log_config(self, config: Any) -> None:
        """A whole configuration: as params, and as a file."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Tags."""

    def log_figure(self, figure: Any, artifact_file: str) -> None:
        """A matplotlib or plotly figure."""

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """A file or a directory."""
