"""Runs in a store that MLflow itself opens: `run_store.RunStore` over the classes of `stores`.

Loading this module imports MLflow.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import verify_artifact_path
from mlflow.store.tracking import GET_METRIC_HISTORY_MAX_RESULTS
from mlflow.tracking.default_experiment.registry import get_experiment_id
from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

from tailrace_agent.ipc.records import Kind, Point
from tailrace_agent.mlflow import experiments
from tailrace_agent.mlflow.bulk_tables import BulkTables
from tailrace_agent.mlflow.log_batch_body import batch_body
from tailrace_agent.mlflow.places import place_here
from tailrace_agent.mlflow.run_store import FOUND_AT_MOST, Bulk, Page, Run, running_with_tag
from tailrace_agent.mlflow.stores import Store, batch_poster, bulk_route, is_remote, open_repository
from tailrace_agent.text.quoting import plain

__all__ = ["MlflowRuns"]


class MlflowRuns:
    """The runs of a store of MLflow's.

    Args:
        uri: The absolute tracking URI, with its credentials.
        store: MLflow's store for it, from `stores.open_store`.
        request_timeout: Seconds that one request may take.

    Thread safety: as that of the store, which MLflow shares between threads itself.
    """

    def __init__(self, uri: str, store: Store, request_timeout: float) -> None:
        self._uri, self._store, self._timeout = uri, store, request_timeout
        self._post = batch_poster(store)
        self.bulk: Bulk = bulk_route(store) or BulkTables(store)
        self.remote = is_remote(store)

    def name_fault(self, kind: Kind, key: str) -> str | None:
        """MLflow's own validation of a name."""
        return _name_fault(kind, key)

    def default_experiment(self) -> str:
        """What MLflow and its plug-ins take here for a run that names no experiment."""
        # No variable of this process: what they said when the run began is in its record, and may have changed since.
        return str(get_experiment_id())

    def experiment_named(self, name: str) -> str:
        """The id of an experiment; created when missing."""
        return experiments.experiment_named(self._store, name)

    def active_experiments(self) -> list[str]:
        """The ids of the experiments that are not deleted."""
        found = self._store.search_experiments(ViewType.ACTIVE_ONLY, FOUND_AT_MOST, None, None, None)
        return [str(experiment.experiment_id) for experiment in found]

    def create_run(
        self, experiment_id: str, user: str, start_time: int, tags: Sequence[tuple[str, str]], name: str | None
    ) -> Run:
        """A new run, which is running."""
        return _run(self._store.create_run(experiment_id, user, start_time, [RunTag(*tag) for tag in tags], name))

    def run(self, run_id: str) -> Run:
        """A run, deleted ones included."""
        return _run(self._store.get_run(run_id))

    def search_runs(self, experiment_ids: Sequence[str], query: str) -> list[Run]:
        """The runs of some experiments that a filter finds."""
        found = self._store.search_runs(list(experiment_ids), query, ViewType.ACTIVE_ONLY, FOUND_AT_MOST, None)
        return [_run(run) for run in found]

    def running_with_tag(self, experiment_ids: Sequence[str], key: str) -> dict[str, str]:
        """The running ones of some experiments that have a tag."""
        return running_with_tag(self, experiment_ids, key)

    def update_run(self, run_id: str, status: str, end_time: int | None, name: str | None) -> None:
        """Sets the status; end time and name where they are not None."""
        self._store.update_run_info(run_id, RunStatus.from_string(status), end_time, name)

    def delete_run(self, run_id: str) -> None:
        """Marks a run as deleted."""
        self._store.delete_run(run_id)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Point] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Writes one batch: for a plain MLflow server the body is encoded here."""
        if self._post is not None:
            self._post(batch_body(run_id, metrics, params, tags))
            return
        self._store.log_batch(
            run_id=run_id,
            metrics=[Metric(*point) for point in metrics],
            params=[Param(*param) for param in params],
            tags=[RunTag(*tag) for tag in tags],
        )

    def delete_tag(self, run_id: str, key: str) -> None:
        """Deletes a tag."""
        self._store.delete_tag(run_id, key)

    def metric_page(self, run_id: str, key: str, token: str | None) -> Page:
        """A page of a metric's history."""
        found = self._store.get_metric_history(run_id, key, GET_METRIC_HISTORY_MAX_RESULTS, token)
        return Page(found, found.token)

    def place_here(self, artifact_uri: str) -> Path | None:
        """The directory on this machine that a server names for artifacts."""
        return place_here(artifact_uri, self._uri)

    def repository(self, artifact_uri: str) -> Any:
        """Where the artifacts of a run go."""
        return open_repository(artifact_uri, self._uri, self._timeout)

    def mlflows_own(self) -> Store:
        """The store itself."""
        return self._store


# The same keys come with every step; bounded, since a program may make them up.
@functools.lru_cache(maxsize=65536)
def _name_fault(kind: Kind, key: str) -> str | None:
    try:
        if kind == "metric":
            _validate_metric(key, 0.0, 0, 0)
        elif kind == "param":
            _validate_param(key, "")
        elif kind == "tag":
            _validate_tag(key, "")
        else:
            verify_artifact_path(key)
    except MlflowException as error:
        return plain(str(error.message))
    return None


def _run(run: Any) -> Run:
    info, data = run.info, run.data
    return Run(
        str(info.run_id),
        str(info.experiment_id),
        info.run_name or "",
        info.status,
        info.lifecycle_stage,
        info.end_time,
        info.artifact_uri or "",
        data.tags,
        data.params,
        # MLflow's public `metrics` has no steps.
        dict.fromkeys(data.metrics, -1) | {metric.key: metric.step for metric in getattr(data, "_metric_objs", ())},
        data.metrics,
    )
