"""What `sinks.mlflow` asks of a tracking store, whoever carries it out: MLflow's own store, or requests of our own.

A store raises whatever it comes up with: `errors.translate` makes one of our errors of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from tailrace_agent.ipc.records import Kind, Point, RunSpec
from tailrace_agent.text.directions import BEST_STEP, bests_among

__all__ = ["AT_ONCE", "FOUND_AT_MOST", "Bulk", "Page", "Run", "RunStore", "just_created", "running_with_tag"]

AT_ONCE: Final = 20_000
"""Points that the agent sends in one request: under the 1 MiB that nginx takes if nobody has told it otherwise."""
FOUND_AT_MOST: Final = 1000
"""Runs or experiments that one search may find."""


class Run(NamedTuple):
    """A run as a store has it. `steps` and `values` are each metric's last ones, `end_time` is in milliseconds."""

    run_id: str
    experiment_id: str
    name: str
    status: str
    lifecycle_stage: str
    end_time: int | None
    artifact_uri: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    steps: Mapping[str, int]
    values: Mapping[str, float]

    @property
    def next_steps(self) -> dict[str, int] | None:
        """Where steps go on, by the first part of the metrics' names; None for a run that has none yet."""
        steps: dict[str, int] = {}
        for key, step in self.steps.items():
            group, slash, _ = key.partition("/")
            if slash:
                steps[group] = max(steps.get(group, 0), step + 1)
        return steps or None

    @property
    def bests(self) -> dict[str, float]:
        """The best values that it has, by metric."""
        return bests_among(self.values)

    @property
    def best_steps(self) -> dict[str, float]:
        """Their steps."""
        steps = {key: self.values.get(f"{key}{BEST_STEP}", math.nan) for key in self.bests}
        return {key: step for key, step in steps.items() if math.isfinite(step)}


def just_created(spec: RunSpec) -> Run | None:
    """A run that its program has just created in MLflow, as that has answered; None for any other."""
    if not spec.is_new:
        return None
    name, experiment_id, place = spec.run_name or "", spec.experiment_id or "", spec.artifact_uri or ""
    return Run(str(spec.run_id), experiment_id, name, "RUNNING", "active", None, place, {}, {}, {}, {})


def running_with_tag(store: RunStore, experiment_ids: Sequence[str], key: str) -> dict[str, str]:
    """By a search, which brings the few runs that have it."""
    query = f"attributes.status = 'RUNNING' and tags.`{key}` LIKE '%'"
    return {run.run_id: run.tags.get(key, "") for run in store.search_runs(experiment_ids, query)}


class Page(list[Any]):
    """What one request brings of a list, with the token of the next one."""

    def __init__(self, found: Sequence[Any], token: str | None) -> None:
        super().__init__(found)
        self.token = token


class Bulk(Protocol):
    """A way for more metrics at once than `log_batch` takes: `bulk_route.BulkRoute`, `bulk_tables.BulkTables`."""

    def at_once(self, waiting: int) -> int:
        """Points that one call takes now that so many wait; 0 where there is no such way. May ask the store, once.

        With nothing waiting the store is not asked: it is what is known by now.
        """

    def send(self, run_id: str, points: Sequence[Point]) -> bool:
        """Writes all points, or none; False where there is no such way, or none any more."""


class RunStore(Protocol):
    """A tracking store. May be used from several threads at once."""

    @property
    def bulk(self) -> Bulk:
        """The way for many metrics at once."""

    @property
    def remote(self) -> bool:
        """Whether it is behind HTTP, so that only an answer can be a refusal."""

    def name_fault(self, kind: Kind, key: str) -> str | None:
        """Why MLflow would refuse a name, without a request; or None."""

    def default_experiment(self) -> str:
        """The id of the experiment of a run that names none."""

    def experiment_named(self, name: str) -> str:
        """The id of an experiment; created when missing."""

    def active_experiments(self) -> list[str]:
        """The ids of the experiments that are not deleted."""

    def create_run(
        self, experiment_id: str, user: str, start_time: int, tags: Sequence[tuple[str, str]], name: str | None
    ) -> Run:
        """A new run, which is running."""

    def run(self, run_id: str) -> Run:
        """A run, deleted ones included."""

    def search_runs(self, experiment_ids: Sequence[str], query: str) -> list[Run]:
        """The runs of some experiments that a filter finds, deleted ones left out."""

    def running_with_tag(self, experiment_ids: Sequence[str], key: str) -> dict[str, str]:
        """The running ones of some experiments that have a tag: its value by run id. One request, of a few bytes."""

    def update_run(self, run_id: str, status: str, end_time: int | None, name: str | None) -> None:
        """Sets the status; end time and name where they are not None."""

    def delete_run(self, run_id: str) -> None:
        """Marks a run as deleted."""

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Point] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Writes one batch."""

    def delete_tag(self, run_id: str, key: str) -> None:
        """Deletes a tag; that there is none of this name is an error."""

    def metric_page(self, run_id: str, key: str, token: str | None) -> Page:
        """A page of a metric's history."""

    def place_here(self, artifact_uri: str) -> Path | None:
        """The directory on this machine that a server names for artifacts; None where it keeps them itself."""

    def repository(self, artifact_uri: str) -> Any:
        """Where the artifacts of a run go: `proxied_files.ProxiedFiles`, or a repository of MLflow's."""

    def mlflows_own(self) -> Any:
        """MLflow's own store, for what only it can do; opened, and MLflow imported, at the first call."""
