"""What several folders of the agent's tests need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.mlflow_sinks import NUMBERS
from helpers.other_users import common_place
from helpers.stored_runs import Archived, SameNames
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.settings import Settings


@pytest.fixture
def place() -> Iterator[Path]:
    with common_place() as there:
        yield there


@pytest.fixture
def settings(tmp_path: Path, place: Path) -> Settings:
    return Settings(dir=str(tmp_path / "state"), ring_dir=str(place), ring_bytes=MIN_BYTES)


@pytest.fixture
def session(settings: Settings) -> Session:
    return Session.create(settings, cwd="/", program="train.py")


@pytest.fixture
def quiet_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands set for their own process does not outlive the test."""
    for name in ("GIT_PYTHON_REFRESH", "OMP_NUM_THREADS", "MLFLOW_LOGGING_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def same_names(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> SameNames:
    """Two stores in which runs have one name; what a test changes in them, it puts back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILRACE_METADATA", "false")
        patch.setenv("TAILRACE_BEST_METRICS", "false")
        return SameNames(tmp_path_factory.mktemp("names"), sqlite_template)


@pytest.fixture(scope="session")
def archived(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Archived:
    """A store with two runs, and the archive of both; nothing is changed in it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GIT_PYTHON_REFRESH", "OMP_NUM_THREADS", "MLFLOW_LOGGING_LEVEL"):
            patch.setenv(name, os.environ.get(name, ""))
            patch.delenv(name)
        return Archived(sqlite_template, tmp_path_factory.mktemp("made"))


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    """A name that no other test has on the server that all share."""
    return f"{request.node.name}-{next(NUMBERS)}"
