"""Which servers are spoken to without MLflow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.entry_points import lay_entry_points
from tailrace_agent.rest.plain_server import plain_server


@pytest.mark.parametrize("uri", ["http://host:5000", "https://ada:pw@host/mlflow/", "HTTP://host"])
def test_a_server_is_plain_where_nothing_else_is_said(uri: str) -> None:
    assert plain_server(uri, {}) == uri
    assert plain_server(f"tailrace+{uri}", {}) == uri
    assert plain_server(None, {"MLFLOW_TRACKING_URI": uri}) == uri


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "",
        "sqlite:///x.db",
        "databricks",
        "file:///x",
        "/x",
        "http://",
        "http://host:port",
        "http://h?a=b",
        "x://h",
    ],
)
def test_what_is_no_server_is_mlflows(uri: str | None) -> None:
    assert plain_server(uri, {}) is None


@pytest.mark.parametrize(
    "environ",
    [
        {"MLFLOW_TRACKING_AUTH": "kubernetes"},
        {"MLFLOW_TRACKING_AWS_SIGV4": "true"},
        {"MLFLOW_WORKSPACE": "team"},
        {"DATABRICKS_RUNTIME_VERSION": "15"},
        {"MLFLOW_TRACKING_INSECURE_TLS": "perhaps"},
        {"MLFLOW_TRACKING_SERVER_CERT_PATH": ""},
        {"MLFLOW_TRACKING_INSECURE_TLS": "true", "MLFLOW_TRACKING_SERVER_CERT_PATH": "/ca.pem"},
    ],
)
def test_a_login_or_a_setting_that_only_mlflow_understands_is_left_to_it(environ: dict[str, str]) -> None:
    assert plain_server("http://host", environ) is None


def _asked(place: str) -> str:
    code = "from tailrace_agent.rest.plain_server import plain_server; print(plain_server('http://host', {}))"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([place, *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    return done.stdout.strip()


@pytest.mark.parametrize("group", ["request_header_provider", "request_auth_provider", "tracking_store"])
def test_where_somebody_else_has_a_plug_in_it_is_mlflows(group: str, tmp_path: Path) -> None:
    place = lay_entry_points(tmp_path).split(os.pathsep)[0]
    assert _asked(place) == "http://host", "tailrace's own change nothing"
    plug_in = Path(place) / "other-1.0.dist-info"
    plug_in.mkdir()
    (plug_in / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (plug_in / "entry_points.txt").write_text(f"[mlflow.{group}]\nname = other.module:thing\n")
    assert _asked(place) == "None"
