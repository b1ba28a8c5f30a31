"""Fixtures that all tests share: real MLflow stores, and an environment that leaks nothing in or out."""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from helpers.databases import copy_database
from helpers.serving import clean_environ, serving
from tailrace_agent.mlflow.lean_import import uncollected

# MLflow 3.7 describes at INFO, whenever a database is opened, what it does with it: no word of ours.
for _name in ("mlflow.store.db.utils", "alembic.runtime.migration"):
    logging.getLogger(_name).addFilter(lambda record: record.levelno >= logging.WARNING)  # MLflow sets levels anew

# The same examples every time: a build is not red by chance. New ones: make test ARGS=--hypothesis-profile=explore
# And no deadlines: how long an example takes on a busy machine says nothing.
settings.register_profile("tailrace", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=500, derandomize=False, deadline=None)
settings.load_profile("tailrace")


# Tests start hundreds of programs and agents, and each would compile all of tailrace anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported for the tests stays until the end: no garbage is looked for meanwhile, nor later among it.

    It is more than a million objects, and some tests collect garbage again and again, or fork.
    """
    with uncollected():
        return (yield)


@pytest.fixture(autouse=True, scope="session")
def _not_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What MLflow and reports make where they run is not made here, where two workers would do so at a time."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "_MLFLOW_", "TAILRACE_")) and not name.startswith(
            ("TAILRACE_TEST_", "TAILRACE_NATIVE")
        ):
            monkeypatch.delenv(name)
    if "mlflow" in sys.modules:  # a test before may have set MLflow's own, global URI
        sys.modules["mlflow"].set_tracking_uri(None)
    _read_migrations_once()
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv(
        "TAILRACE_METADATA", "false"
    )  # exact tags and artifacts elsewhere; tests/agent/provenance/test_metadata.py has it
    # Exact metrics elsewhere; tests/agent/observers/test_bests.py and tests/sdk/api/test_goals.py have it.
    monkeypatch.setenv("TAILRACE_BEST_METRICS", "false")
    # Each run would have a process more; tests/sdk/console has it.
    monkeypatch.setenv("TAILRACE_CONSOLE", "false")
    monkeypatch.setenv("TAILRACE_DIR", str(tmp_path / "tailrace"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def sqlite_template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its schema: making one takes seconds, copying it a millisecond."""
    if given := os.environ.get("SQLITE_TEMPLATE"):  # of tests that run tests
        return Path(given)
    # Of all workers: whoever comes first makes it, and the others wait for that.
    together = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        together = together.parent
    path = together / "template.db"
    with (together / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _make_database(path.with_suffix(".new")).rename(path)
    return path


@pytest.fixture
def sqlite_uri(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite store of this test."""
    return f"sqlite:///{copy_database(sqlite_template, tmp_path)}"


@pytest.fixture(scope="session")
def mlflow_server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real `mlflow server`, shared by all tests: use experiment names of your own."""
    directory = tmp_path_factory.mktemp("server")
    database = copy_database(sqlite_template, directory, "mlflow-artifacts:/0")
    artifacts = str(directory / "artifacts")
    with serving(
        directory, "--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", artifacts
    ) as url:
        yield url


@pytest.fixture(params=["sqlite", "server"])
def store_uri(request: pytest.FixtureRequest) -> str:
    """The test runs twice: against a SQLite store and against a server."""
    uri: str = request.getfixturevalue("sqlite_uri" if request.param == "sqlite" else "mlflow_server")
    return uri


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skipped test is a promise not checked here, so the end of the output says how many, and why."""
    reasons = Counter(
        report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.getreports("skipped")
    )
    if reasons:
        terminalreporter.section(f"{reasons.total()} skipped")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:4d}  {reason.removeprefix('Skipped: ')}")


def _read_migrations_once() -> None:
    """MLflow reads all its migrations whenever it opens a database, to know the last one; tests open hundreds."""
    utils: Any = sys.modules.get("mlflow.store.db.utils")
    if utils is not None and not hasattr(utils._get_latest_schema_revision, "cache_info"):
        utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)


def _make_database(path: Path) -> Path:
    code = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1])"
    environ = {**clean_environ(), "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{path}"], check=True, capture_output=True, env=environ)
    return path
