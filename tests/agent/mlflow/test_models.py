"""A directory becomes a model of a run, once, and is whole before anybody can find it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus

from tailrace_agent.errors import NotFound, Refused, Unavailable
from tailrace_agent.ipc.records import ModelSpec
from tailrace_agent.mlflow.models import Placed, find_model, link_version, place_model
from tailrace_agent.mlflow.stores import open_repository, open_store


class _Saved:
    """A run of a store, and a directory in MLflow's format that nobody can load."""

    def __init__(self, uri: str, directory: Path) -> None:
        self.client, self.store = MlflowClient(uri), open_store(uri, str(directory), 10)
        self.uri, self.run_id = uri, self.client.create_run("0").info.run_id
        self.files = directory / "model"
        self.files.mkdir()
        (self.files / "MLmodel").write_text("flavors:\n  nobodys: {}\nutc_time_created: x\n")
        (self.files / "weights.bin").write_bytes(bytes(1000))

    def place(self, name: str = "m", token: str = "a1") -> Placed:
        spec = ModelSpec(token, name, tags={"colour": "red"})
        return place_model(self.store, self.repository, self.run_id, self.files, spec)

    def repository(self, location: str) -> Any:
        return open_repository(location, self.uri, 10)


@pytest.fixture
def saved(sqlite_uri: str, tmp_path: Path) -> _Saved:
    return _Saved(sqlite_uri, tmp_path)


def test_a_model_is_placed_once_with_its_run_and_its_id_written_into_it(saved: _Saved) -> None:
    placed = saved.place()
    assert saved.place() == placed
    model = saved.client.get_logged_model(str(placed.model_id))
    assert (model.status, model.name, model.tags["colour"]) == (LoggedModelStatus.READY, "m", "red")
    described = yaml.safe_load(Path(placed.location.removeprefix("file://"), "MLmodel").read_text())
    assert (described["run_id"], described["model_id"]) == (saved.run_id, placed.model_id)
    assert len(saved.client.get_run(saved.run_id).outputs.model_outputs) == 1


def test_another_token_is_another_model_and_the_last_of_one_name_is_found(saved: _Saved) -> None:
    saved.place(token="a1")
    second = saved.place(token="b2")
    assert find_model(saved.store, saved.run_id, "m") == second
    with pytest.raises(NotFound, match="has no model 'n'; it has: m"):
        find_model(saved.store, saved.run_id, "n")


def test_of_a_store_without_logged_models_the_files_are_artifacts_of_the_run_and_listed_once(
    saved: _Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(saved.store, "search_logged_models", unknown)
    placed = saved.place()
    assert saved.place() == placed
    assert (placed.uri, placed.model_id) == (f"runs:/{saved.run_id}/m", None)
    assert find_model(saved.store, saved.run_id, "m") == placed
    history = json.loads(saved.client.get_run(saved.run_id).data.tags["mlflow.log-model.history"])
    assert [(entry["artifact_path"], entry["flavors"]) for entry in history] == [("m", {"nobodys": {}})]


def test_another_error_of_the_store_is_not_taken_for_that(saved: _Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise ConnectionError("lost")

    monkeypatch.setattr(saved.store, "search_logged_models", lost)
    with pytest.raises(ConnectionError):
        saved.place()


def test_a_model_is_not_ready_before_all_of_it_has_arrived(saved: _Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    real = saved.repository

    def cut_short(location: str) -> Any:
        repository = real(location)
        upload = repository.log_artifacts

        def log_artifacts(*args: Any) -> None:
            upload(*args)
            Path(location.removeprefix("file://"), "weights.bin").write_bytes(b"")

        repository.log_artifacts = log_artifacts
        return repository

    monkeypatch.setattr(saved, "repository", cut_short)
    with pytest.raises(Unavailable, match=r"weights\.bin has not arrived whole"):
        saved.place()
    with pytest.raises(NotFound, match="it has: none"):
        find_model(saved.store, saved.run_id, "m")


def test_what_is_no_model_and_whose_run_is_gone_is_refused(saved: _Saved) -> None:
    (saved.files / "MLmodel").rename(saved.files / "mlmodel")
    with pytest.raises(Refused, match="holds no file MLmodel"):
        saved.place()
    (saved.files / "mlmodel").rename(saved.files / "MLmodel")
    saved.client.delete_run(saved.run_id)
    with pytest.raises(Refused, match="was deleted"):
        saved.place()


def test_a_version_is_noted_once_in_the_model_that_it_was_made_of(saved: _Saved) -> None:
    model_id = str(saved.place().model_id)
    for version in ("1", "1", "2"):
        link_version(saved.store, model_id, "name", version)
    noted = json.loads(saved.client.get_logged_model(model_id).tags["mlflow.modelVersions"])
    assert noted == [{"name": "name", "version": "1"}, {"name": "name", "version": "2"}]
