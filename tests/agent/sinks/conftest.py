"""Servers are spoken to in both ways: through MLflow's own store, and in requests of tailrace's own."""

from __future__ import annotations

import pytest

from helpers import mlflow_sinks


@pytest.fixture(params=["sqlite", "plain server", pytest.param("server", marks=pytest.mark.slow)])
def store_uri(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs three times: against a SQLite store, against a server, and against a server without MLflow."""
    monkeypatch.setattr(mlflow_sinks, "OWN_PROCESS", request.param == "plain server")
    uri: str = request.getfixturevalue("sqlite_uri" if request.param == "sqlite" else "mlflow_server")
    return uri


@pytest.fixture(params=[False, True], ids=["through MLflow", "without MLflow"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs twice, against whatever server it has."""
    monkeypatch.setattr(mlflow_sinks, "OWN_PROCESS", request.param)
