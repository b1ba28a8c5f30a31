"""One store for the tests of a folder: opening MLflow takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.sdk_tools import tracking
from tailrace import Tracker, TrackingConfig, build_tracker_from_config
from tailrace._api.tracker_part import tracker_core_of


@pytest.fixture(scope="package")
def shared(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tracker, str]]:
    """A tracker that all tests here share, and its store."""
    directory = tmp_path_factory.mktemp("training")
    uri = f"sqlite:///{directory / 'mlflow.db'}"
    (directory / "mlflow.db").write_bytes(sqlite_template.read_bytes())
    with tracking(uri, dir=str(directory / "state"), experiment_name="training", metadata=False) as tracker:
        yield tracker, uri


@pytest.fixture
def _trackers_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trackers that are built from a configuration are gone after the test, their sessions too."""
    built: list[Tracker] = []

    def build(config: TrackingConfig) -> Tracker:
        built.append(build_tracker_from_config(config))
        return built[-1]

    monkeypatch.setenv("TAILRACE_AGENT", "thread")
    monkeypatch.setattr("tailrace.training.configured.from_config.build_tracker_from_config", build)
    yield
    for tracker in built:
        core = tracker_core_of(tracker)
        core.close()
        for connection in core.runs.connections():
            connection.session.remove_shared()
