"""Experiments by their names: found, made, and not made twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_ALREADY_EXISTS

from tailrace_agent.errors import Refused
from tailrace_agent.mlflow.experiments import experiment_named
from tailrace_agent.mlflow.stores import open_store


def test_an_experiment_is_made_once_and_found_then(sqlite_uri: str, tmp_path: Path) -> None:
    store = open_store(sqlite_uri, str(tmp_path), 10.0)
    made = experiment_named(store, "digits")
    assert experiment_named(store, "digits") == made
    assert MlflowClient(sqlite_uri).get_experiment(made).name == "digits"


def test_one_that_somebody_else_makes_meanwhile_is_that_one(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sqlite_uri, str(tmp_path), 10.0)
    create = store.create_experiment
    theirs: list[str] = []

    def late(name: str, *more: Any) -> str:
        theirs.append(create(name, *more))
        raise MlflowException("it is there already", error_code=code)

    monkeypatch.setattr(store, "create_experiment", late)
    code = RESOURCE_ALREADY_EXISTS
    assert experiment_named(store, "digits") == theirs[0]
    code = INTERNAL_ERROR
    with pytest.raises(MlflowException, match="it is there already"):
        experiment_named(store, "letters")


def test_one_that_was_deleted_is_refused_with_the_way_to_restore_it(sqlite_uri: str, tmp_path: Path) -> None:
    client, store = MlflowClient(sqlite_uri), open_store(sqlite_uri, str(tmp_path), 10.0)
    client.delete_experiment(client.create_experiment("digits"))
    with pytest.raises(Refused, match="'digits' was deleted: bring it back with `mlflow experiments restore"):
        experiment_named(store, "digits")
