"""What the tests of the public calls share."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.logged_results import Colour, Logged, Model, log_backtests, log_frames
from helpers.sdk_tools import Store, tracking
from tailrace import Tracker
from tailrace._log.channel import Channel
from tailrace._log.log import LogCall, make_log
from tailrace._runs.run_part import core_of
from tailrace_agent.ipc import native


@pytest.fixture
def sdk(sqlite_uri: str) -> Iterator[Tracker]:
    """A tracker to a store of this test's own; its agent is a thread."""
    with tracking(sqlite_uri) as tracker:
        yield tracker


@pytest.fixture(scope="session")
def logged(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """One run with frames, back-tests, training metrics and a config; everything was changed after its call."""
    directory = tmp_path_factory.mktemp("frames")
    database = directory / "mlflow.db"
    database.write_bytes(sqlite_template.read_bytes())
    uri = f"sqlite:///{database}"
    config: dict[str, Any] = {"model": Model(), "lr": 3e-4, "sizes": (1, 2), "colour": Colour.RED}
    config["z"] = {"a": np.int64(3)}
    said: list[str] = []
    with tracking(uri, experiment_name="frames", dir=str(directory / "tailrace"), metadata=False) as sdk:
        sdk.set_experiment("frames")
        with sdk.start_run() as run:
            core_of(run).voice.warn = lambda text, **_: said.append(text)  # type: ignore[method-assign]
            log_frames(sdk)
            log_backtests(sdk)
            sdk.log_training_metrics({"loss": 0.5, "val_loss": 0.6, "epoch/duration_seconds": 3.0}, step=1)
            sdk.log_training_metrics(step=2, loss=0.4, val_loss=0.5, test_accuracy=0.9, lr=0.1)
            sdk.log_config(config)
            config["lr"], config["z"]["a"] = 7, 7
            ledger = sdk.flush()
        return Logged(Store(uri, run), ledger, said)


@pytest.fixture(scope="module")
def tracked(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tracker, str]]:
    """A tracker that all tests of a file share, and its store."""
    directory = tmp_path_factory.mktemp("tracked")
    uri = f"sqlite:///{directory / 'mlflow.db'}"
    (directory / "mlflow.db").write_bytes(sqlite_template.read_bytes())
    with tracking(uri, dir=str(directory / "state"), experiment_name="experiments") as tracker:
        yield tracker, uri


@pytest.fixture
def tracker(sqlite_uri: str) -> Iterator[Tracker]:
    """A tracker whose monitors take a sample every tenth of a second."""
    with tracking(sqlite_uri, system_metrics_interval=0.1) as tracker:
        yield tracker


@pytest.fixture
def off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    """A tracker that delivers nothing, and leaves its reports in a directory of this test's own."""
    monkeypatch.chdir(tmp_path)
    with tracking("http://localhost:1", agent="off") as tracker:
        yield tracker


@pytest.fixture(params=["c", "python"])
def log_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Channel], LogCall]:
    """Gives a `log` to a channel, with the hot path in C and without."""
    if request.param == "python":
        monkeypatch.setattr(native, "Log", None)
    elif native.Log is None:
        pytest.skip("there is no C here")
    return lambda channel: make_log(types.SimpleNamespace(home=None, own=None, shared=channel))
