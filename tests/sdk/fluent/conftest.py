"""The module's tracker, for MLflow's functions that are called through it."""

from __future__ import annotations

from collections.abc import Iterator

import mlflow
import pytest

import tailrace
from tailrace._api.tracker_core import module_core


@pytest.fixture
def store(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The module's tracker, as a script has it, to a store of this test's own."""
    monkeypatch.setenv("TAILRACE_AGENT", "thread")
    monkeypatch.setenv("TAILRACE_QUIET", "true")
    core = module_core()
    before = core.given, core.experiment_id
    tailrace.set_tracking_uri(sqlite_uri)
    tailrace.set_experiment("beside")
    yield sqlite_uri
    while tailrace.active_run() is not None:
        tailrace.end_run()
    core.given, core.experiment_id = before
    mlflow.set_tracking_uri(None)
