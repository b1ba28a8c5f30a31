"""Runs on a plain MLflow server: `mlflow.run_store.RunStore` in requests of our own.

Paths, parameters and bodies are those that MLflow's `RestStore` sends: a test compares both, request by request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import requests

from tailrace_agent.ipc.records import Kind, Point
from tailrace_agent.mlflow import experiments, name_rules, places
from tailrace_agent.mlflow.bulk_route import BulkRoute
from tailrace_agent.mlflow.errors import refused_code
from tailrace_agent.mlflow.lean_import import import_lean
from tailrace_agent.mlflow.log_batch_body import batch_body
from tailrace_agent.mlflow.run_store import FOUND_AT_MOST, Bulk, Page, Run, running_with_tag
from tailrace_agent.rest import answers
from tailrace_agent.rest.credentials import is_true
from tailrace_agent.rest.requests import answered, send_once
from tailrace_agent.rest.server_files import ServerFiles, proxied_address

__all__ = ["ServerRuns"]

_API: Final = "/api/2.0/mlflow/"
_DEFAULT_EXPERIMENT: Final = "0"
_PAGE: Final = 25_000
"""Points of a metric's history that MLflow gives at once."""
_IN_PARTS: Final = "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"
_Answer = TypeVar("_Answer", bound=answers.Answer)


class ServerRuns:
    """The runs of a server. In a process of tailrace's own alone: it may import MLflow without pandas.

    Args:
        uri: The tracking URI, from `plain_server`.
        cwd: Directory that MLflow's own store is opened for.
        request_timeout: Seconds that one request may take.

    Thread safety: any thread may call it.
    """

    remote: Final = True

    def __init__(self, uri: str, cwd: str, request_timeout: float) -> None:
        self.uri, self._cwd, self._timeout = uri, cwd, request_timeout
        self.bulk: Bulk = BulkRoute(self.receive, answered)
        self._opening = threading.Lock()
        self._mlflows_own: Any = None

    def name_fault(self, kind: Kind, key: str) -> str | None:
        """Why MLflow would refuse a name."""
        return name_rules.name_fault(kind, key)

    def default_experiment(self) -> str:
        """MLflow's, which no plug-in changes here."""
        return _DEFAULT_EXPERIMENT

    def experiment_named(self, name: str) -> str:
        """The id of an experiment; created when missing."""
        return experiments.experiment_named(self, name)

    def get_experiment_by_name(self, name: str) -> answers.Experiment | None:
        """An experiment, deleted ones included; None where there is none of this name."""
        try:
            found = self.get("experiments/get-by-name", {"experiment_name": name}, answers.FoundExperiment)
        except Exception as error:
            if refused_code(error, "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise
        return found.experiment

    def create_experiment(self, name: str, artifact_location: None = None, tags: Sequence[Any] = ()) -> str:
        """MLflow's call, for `experiment_named`: the id of a new experiment."""
        del artifact_location, tags  # none is wanted
        return self.post("experiments/create", {"name": name}, answers.NewExperiment).experiment_id

    def active_experiments(self) -> list[str]:
        """The ids of the experiments that are not deleted."""
        body = {"max_results": FOUND_AT_MOST, "view_type": "ACTIVE_ONLY"}
        found = self.post("experiments/search", body, answers.Experiments)
        return [experiment.experiment_id for experiment in found.experiments]

    def create_run(
        self, experiment_id: str, user: str, start_time: int, tags: Sequence[tuple[str, str]], name: str | None
    ) -> Run:
        """A new run, which is running."""
        body: dict[str, Any] = {"experiment_id": experiment_id, "user_id": user}
        if name is not None:
            body["run_name"] = name
        body["start_time"] = start_time
        if tags:
            body["tags"] = [{"key": key, "value": value} for key, value in tags]
        return self.post("runs/create", body, answers.FoundRun).found()

    def run(self, run_id: str) -> Run:
        """A run, deleted ones included."""
        return self.get("runs/get", {"run_uuid": run_id, "run_id": run_id}, answers.FoundRun).found()

    def search_runs(self, experiment_ids: Sequence[str], query: str) -> list[Run]:
        """The runs of some experiments that a filter finds."""
        body = {
            "experiment_ids": list(experiment_ids),
            "filter": query,
            "run_view_type": "ACTIVE_ONLY",
            "max_results": FOUND_AT_MOST,
        }
        return [run.plain() for run in self.post("runs/search", body, answers.Runs).runs]

    def running_with_tag(self, experiment_ids: Sequence[str], key: str) -> dict[str, str]:
        """The running ones of some experiments that have a tag."""
        return running_with_tag(self, experiment_ids, key)

    def update_run(self, run_id: str, status: str, end_time: int | None, name: str | None) -> None:
        """Sets the status; end time and name where they are not None."""
        body = {"run_uuid": run_id, "status": status, "end_time": end_time, "run_id": run_id, "run_name": name}
        given = {field: value for field, value in body.items() if value is not None}
        self.post("runs/update", given, answers.ChangedRun)

    def delete_run(self, run_id: str) -> None:
        """Marks a run as deleted."""
        self.post("runs/delete", {"run_id": run_id}, answers.Nothing)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Point] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Writes one batch."""
        body = batch_body(run_id, metrics, params, tags)
        headers = {"Content-Type": "application/json"}
        self._exchange("runs/log-batch", "POST", answers.Nothing, data=body, extra_headers=headers)

    def delete_tag(self, run_id: str, key: str) -> None:
        """Deletes a tag."""
        self.post("runs/delete-tag", {"run_id": run_id, "key": key}, answers.Nothing)

    def metric_page(self, run_id: str, key: str, token: str | None) -> Page:
        """A page of a metric's history."""
        asked = {"run_uuid": run_id, "metric_key": key, "run_id": run_id, "page_token": token, "max_results": _PAGE}
        given = {field: value for field, value in asked.items() if value is not None}
        found = self.get("metrics/get-history", given, answers.History)
        return Page(found.metrics, found.next_page_token or None)

    def place_here(self, artifact_uri: str) -> Path | None:
        """The directory on this machine that the server names for artifacts."""
        return places.place_here(artifact_uri, self.uri)

    def repository(self, artifact_uri: str) -> Any:
        """Where the artifacts of a run go: to this server, or wherever only MLflow knows the way."""
        address = None if is_true(os.environ, _IN_PARTS) else proxied_address(artifact_uri, self.uri)
        if address is not None:
            return ServerFiles(address, self._timeout)
        import_lean()
        from tailrace_agent.mlflow.stores import open_repository

        return open_repository(artifact_uri, self.uri, self._timeout)

    def mlflows_own(self) -> Any:
        """MLflow's own store for this server."""
        with self._opening:
            if self._mlflows_own is None:
                import_lean()
                from tailrace_agent.mlflow.stores import open_store

                self._mlflows_own = open_store(self.uri, self._cwd, self._timeout)
            return self._mlflows_own

    def get(self, what: str, params: dict[str, Any], kind: type[_Answer]) -> _Answer:
        """Asks for something."""
        return self._exchange(what, "GET", kind, params=params)

    def post(self, what: str, body: dict[str, Any], kind: type[_Answer]) -> _Answer:
        """Posts something."""
        return self._exchange(what, "POST", kind, json=body)

    def _exchange(self, what: str, method: str, kind: type[_Answer], **content: Any) -> _Answer:
        path = f"{_API}{what}"
        response = self.receive(path, method, **content)
        return answers.read(answered(response, path), kind, response, what)

    def receive(self, path: str, method: str, **content: Any) -> requests.Response:
        """One request, and its answer, whatever it holds."""
        return send_once(f"{self.uri.removesuffix('/')}{path}", method, self._timeout, **content)
