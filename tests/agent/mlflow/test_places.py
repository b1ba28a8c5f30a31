"""Directories that a server names on this machine are those that MLflow would write to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from tailrace_agent.mlflow.places import place_here

URIS = [
    "/x/y",
    "x/y",
    "./x",
    "file:///x/y",
    "file:/x",
    "file:x",
    "file://localhost/x",
    "file://127.0.0.1/x",
    "file://./x",
]
URIS += [
    "file://other/x",
    "FILE:///x",
    "mlflow-artifacts:/0",
    "s3://b/x",
    "http://h/x",
    "/a/../b",
    "file:///a%20b",
    "/a%20b",
]
URIS += ["file:///a;b/c;d", "/a;b", "/a?b#c", "file:///a?b#c", "", "dbfs:/x", "C:/x"]


def _mlflows(uri: str) -> Path | str | None:
    try:
        return Path(os.path.normpath(local_file_uri_to_path(uri))) if is_local_uri(uri) else None
    except MlflowException:
        return "another machine's"


def _ours(uri: str) -> Path | str | None:
    try:
        return place_here(uri, "http://host")
    except ValueError:
        return "another machine's"


@pytest.mark.parametrize("uri", URIS)
def test_a_place_is_where_mlflow_sees_it(uri: str) -> None:
    assert _ours(uri) == _mlflows(uri)
    assert place_here("/x", "sqlite:///x.db") is None
