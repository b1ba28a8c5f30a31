"""The least that an engine may expect of a tracker, kept in memory."""

from __future__ import annotations

from typing import Any

__all__ = ["LeastTracker"]


class LeastTracker:
    """A `TrackerLike`, and nothing more.

    Attributes:
        logged: Metrics and step of each call.
        params: All params.
        figures: Where each figure went.
        started: Names of runs.
        ended: Their statuses.
    """

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, Any], int | None]] = []
        self.params: dict[str, Any] = {}
        self.configs: list[Any] = []
        self.figures: list[str] = []
        self.started: list[str | None] = []
        self.ended: list[str] = []

    def start_run(self, *, run_name: str | None = None, nested: bool = False, tags: Any = None) -> LeastTracker:
        self.started.append(run_name)
        return self

    def __enter__(self) -> LeastTracker:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.end_run("FAILED" if kind else "FINISHED")

    def end_run(self, status: Any = "FINISHED") -> None:
        self.ended.append(status)

    def log(self, metrics: Any = None, /, step: int | None = None, **values: Any) -> None:
        self.logged.append(({**(metrics or {}), **values}, step))

    def log_params(self, params: Any) -> None:
        self.params.update(params)

    def log_config(self, config: Any) -> None:
        self.configs.append(config)

    def set_tags(self, tags: Any) -> None:
        """Nobody looks at them."""

    def log_figure(self, figure: Any, artifact_file: str) -> None:
        self.figures.append(artifact_file)

    def log_artifact(self, local_path: Any, artifact_path: str | None = None) -> None:
        """Nobody looks at them."""
