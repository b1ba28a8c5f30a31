"""Runs that are there to be read, in a database and on a server, made once in each."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.stored_runs import EXPERIMENT, made_to_be_read
from tailrace import Tracker

_MADE: dict[str, dict[str, str]] = {}


@pytest.fixture(autouse=True)
def _here(quiet_mlflow: None) -> None:
    """Tests here may call commands."""


@pytest.fixture(scope="session", params=["sqlite", "server"])
def uri(request: pytest.FixtureRequest, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two runs of one experiment, and one of another."""
    if request.param == "server":
        found: str = request.getfixturevalue("mlflow_server")
    else:
        path = tmp_path_factory.mktemp("reading") / "mlflow.db"
        path.write_bytes(sqlite_template.read_bytes())
        found = f"sqlite:///{path}"
    return found


@pytest.fixture(scope="session")
def runs(uri: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """MLflow's ids, by name. Made once in a store: pytest may come back to the server after the other parameter."""
    if uri not in _MADE:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TAILRACE_DIR", str(tmp_path_factory.mktemp("state")))
            patch.setenv("TAILRACE_METADATA", "false")
            patch.setenv("TAILRACE_BEST_METRICS", "false")
            _MADE[uri] = made_to_be_read(uri)
    return _MADE[uri]


@pytest.fixture
def tracker(uri: str, runs: dict[str, str]) -> Tracker:
    return Tracker(tracking_uri=uri, experiment_name=EXPERIMENT)
