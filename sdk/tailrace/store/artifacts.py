"""Artifacts of runs: MLflow's way by default, tailrace's where the program wants that or MLflow has no such run yet."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import (
    _artifact_repository_registry,
    get_artifact_repository,
)
from mlflow.tracking._tracking_service import utils
from mlflow.tracking._tracking_service.client import TrackingServiceClient
from mlflow.tracking._tracking_service.utils import get_tracking_uri
from mlflow.utils.uri import get_uri_scheme

from tailrace.store.offline import LocalRun
from tailrace.store.runs import every_store
from tailrace_agent.settings.plug_in import BACKGROUND_ARTIFACTS, wants
from tailrace_agent.settings.uris import without_plug_in

if TYPE_CHECKING:
    from tailrace.store.runs import StoreRun

__all__ = ["hand_over_artifacts", "reach_artifacts"]

_SCHEME: Final = "mlflow-artifacts"


def reach_artifacts() -> None:
    """Has whoever opens a run's artifacts by MLflow find there what this process has handed to tailrace.

    And has MLflow's repository of a server's artifacts, which goes by the tracking URI, find it behind `tailrace+`.
    """
    before = _artifact_repository_registry.get_artifact_repository
    if hasattr(before, "tailrace_before"):
        return

    @functools.wraps(before)
    def open_repository(artifact_uri: str, tracking_uri: str | None = None, *rest: Any, **named: Any) -> Any:
        for store in every_store():
            for run in store.all():
                run.await_artifacts(artifact_uri)
        if get_uri_scheme(artifact_uri) == _SCHEME:
            tracking_uri = without_plug_in(tracking_uri or get_tracking_uri())
        return before(artifact_uri, tracking_uri, *rest, **named)

    open_repository.tailrace_before = before  # type: ignore[attr-defined]
    _artifact_repository_registry.get_artifact_repository = open_repository


def hand_over_artifacts() -> None:
    """Has MLflow's client hand artifacts of runs to tailrace, where they are to go in the background."""
    before = TrackingServiceClient._get_artifact_repo
    if hasattr(before, "tailrace_before"):
        return

    @functools.wraps(before)
    def get_artifact_repo(client: Any, resource_id: str, *args: Any, **kwargs: Any) -> Any:
        run = _to_be_handed_over(client, resource_id) if kwargs.get("resource", "run") == "run" else None
        if run is None:
            return before(client, resource_id, *args, **kwargs)
        repos = utils._artifact_repos_cache  # where MLflow looks for what is under way
        if not isinstance(repos.get(resource_id), _RunArtifacts):
            repos[resource_id] = _RunArtifacts(run)
        return repos[resource_id]

    get_artifact_repo.tailrace_before = before  # type: ignore[attr-defined]
    TrackingServiceClient._get_artifact_repo = get_artifact_repo


def _to_be_handed_over(client: Any, run_id: str) -> StoreRun | None:
    runs = getattr(client.store, "tailrace_runs", None)
    if runs is None:
        return None
    found: StoreRun | None = runs.known(run_id)
    if isinstance(found, LocalRun):
        return found
    if not wants(BACKGROUND_ARTIFACTS):
        return None
    to_write: StoreRun | None = found or runs.to_write(run_id)
    return to_write


class _RunArtifacts(ArtifactRepository):  # type: ignore[misc]  # MLflow is untyped
    """Where artifacts of a run are written. MLflow reads by the run's `artifact_uri`, from a repository of its own.

    Args:
        run: The run.
    """

    def __init__(self, run: StoreRun) -> None:
        super().__init__(run.artifact_uri)
        self._run = run

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        with open(local_file, "rb"):  # noqa: PTH123  # raises as MLflow's do: it is no file, or cannot be read
            pass
        self._run.log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        self._run.log_artifacts(local_dir, artifact_path)

    def list_artifacts(self, path: str | None = None) -> Any:
        return get_artifact_repository(self._run.artifact_uri).list_artifacts(path)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        get_artifact_repository(self._run.artifact_uri).download_artifacts(remote_file_path, local_path)
