"""What the tests of the public calls share: trackers that end with their test, scripts, and reading MLflow back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import mlflow
import pytest
from mlflow import MlflowClient

from tailrace import Run, Settings, Tracker
from tailrace._api.tracker_part import tracker_core_of
from tailrace_agent.ipc.session import Session

T = TypeVar("T")


def newer_than_mlflow_3_7(why: str) -> pytest.MarkDecorator:
    """Skips a test with the oldest MLflow that is allowed, which does something else there."""
    return pytest.mark.skipif(mlflow.__version__.startswith("3.7."), reason=f"MLflow 3.7 {why}")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What tailrace itself has logged; some MLflows tell of their tables, too."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("tailrace")]


def lines(text: str) -> list[str]:
    """The lines that tailrace has printed."""
    return [line.removeprefix("tailrace: ") for line in text.splitlines() if line.startswith("tailrace: ")]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What tailrace has warned about here, and not its agent in a thread."""
    return [record.getMessage() for record in caplog.records if record.name == "tailrace"]


@contextlib.contextmanager
def tracking(uri: str, **settings: Any) -> Iterator[Tracker]:
    """A tracker with its agent in a thread. It is gone afterwards, as at the interpreter's exit."""
    tracker = Tracker(**{"tracking_uri": uri, "agent": "thread", "on_error": "raise", "quiet": True, **settings})
    try:
        yield tracker
    finally:
        core = tracker_core_of(tracker)
        core.close()
        for connection in core.runs.connections():
            connection.session.remove_shared()


class Store:
    """What MLflow has of a run, as its own client reads it."""

    def __init__(self, uri: str, run: Run | str) -> None:
        self.client = MlflowClient(uri)
        self.run_id = run if isinstance(run, str) else run.run_id
        self.run = self.client.get_run(self.run_id)
        self.status: str = self.run.info.status
        self.params: dict[str, str] = self.run.data.params
        self.tags: dict[str, str] = self.run.data.tags

    def history(self, key: str) -> list[tuple[int, float]]:
        """`(step, value)` of a metric, by time and step."""
        points = self.client.get_metric_history(self.run_id, key)
        return [(point.step, point.value) for point in sorted(points, key=lambda p: (p.timestamp, p.step))]

    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """Every metric's history."""
        return {key: self.history(key) for key in self.run.data.metrics}

    def artifacts(self, path: str | None = None) -> list[str]:
        """Paths of all files."""
        found = []
        for info in self.client.list_artifacts(self.run_id, path):
            found += self.artifacts(info.path) if info.is_dir else [info.path]
        return sorted(found)


def named(uri: str, run_name: str) -> Store:
    """The one run of that name."""
    client = MlflowClient(uri)
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(everywhere, f"tags.`mlflow.runName` = '{run_name}'")
    return Store(uri, run.info.run_id)


def parent_of(uri: str, run: Run) -> str | None:
    """MLflow's id of the run that this one is nested under."""
    return Store(uri, run).tags.get("mlflow.parentRunId")


def script(directory: Path, code: str, *, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of its own, as a user would."""
    path = directory / "train.py"
    path.write_text(textwrap.dedent(code))
    environ = {**os.environ, "TAILRACE_DIR": str(directory / "tailrace"), **variables}
    done = subprocess.run(
        [sys.executable, str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        env=environ,
        cwd=directory,
    )
    assert not check or done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done


def eventually(look: Callable[[], T], timeout: float = 30.0) -> T:
    """The first true answer."""
    deadline = time.monotonic() + timeout
    while not (answer := look()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)
    return answer


def scripts(directory: Path, codes: dict[str, str], **variables: str) -> dict[str, subprocess.CompletedProcess[str]]:
    """Runs several programs at once, each in a directory of its own."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = {}
        for name, code in codes.items():
            (directory / name).mkdir()
            running[name] = pool.submit(script, directory / name, code, check=False, **variables)
        return {name: future.result() for name, future in running.items()}


def forget(directory: Path) -> None:
    """Deletes the sessions of a program whose agent ends by itself, what they keep in shared memory included."""
    for session in Session.all(Settings(dir=str(directory / "tailrace"))):
        eventually(lambda session=session: not session.agent_alive())  # type: ignore[misc]
        session.remove()


TRAPS = (
    *("argparse", "boto3", "click", "fastapi", "fcntl", "flask", "json", "logging", "mlflow", "msgspec", "numpy"),
    *("pandas", "psutil", "pyarrow", "requests", "runpy", "sitecustomize", "sklearn", "sqlalchemy", "sqlite3"),
    *("subprocess", "tailrace", "tailrace_agent", "tempfile", "torch", "typing", "usercustomize", "uvicorn", "yaml"),
)
"""Modules that are imported somewhere on the way, and some that MLflow looks for and does not find."""


def lay_traps(directory: Path) -> Callable[[], list[str]]:
    """Puts files named after modules there; what is returned says which of them have been run since."""
    for name in TRAPS:
        path = directory / f"{name}.py"
        path.write_text(
            f"open({str(directory)!r} + '/{name}.sprung', 'w').close()\nraise SystemExit('{name}: a trap')\n"
        )
    return lambda: sorted(path.name for path in directory.glob("*.sprung"))


def command_line(directory: Path) -> list[str]:
    """The command `tailrace`, as it is installed: a script of its own directory, whatever the working directory."""
    path = directory / "tailrace"
    path.write_text("from tailrace_agent.cli import main\n\nmain()\n")
    return [sys.executable, str(path)]
