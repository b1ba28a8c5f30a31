"""A real MLflow server that a test can kill and start again, and tracking in this process towards it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tailrace
from faults.oracle import Journal, MlflowDatabase
from tailrace._api.tracker_part import tracker_core_of

__all__ = ["Server", "log_noted", "tracked"]

_DEADLINE = 120.0
PROMPT = {
    "flush_interval": 0.05,
    "drain_interval": 0.02,
    "retry_max_delay": 0.3,
    "request_timeout": 1.5,
    "exit_timeout": 5.0,
}
"""Settings under which what takes half a minute in the field takes a second."""


class Server:
    """`mlflow server` on a SQLite database and a free port.

    Args:
        folder: For its database and artifacts.
        template: A database with MLflow's schema.
    """

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        shutil.copyfile(template, folder / "mlflow.db")
        self.store = MlflowDatabase(folder / "mlflow.db")
        self.artifacts = folder / "artifacts"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.store.path}"]
        command += ["--artifacts-destination", str(self.artifacts), "--default-artifact-root", "mlflow-artifacts:/"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TAILRACE_"))}
        switches = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**kept, **switches}, cwd=self.folder, start_new_session=True
            )
        deadline = time.monotonic() + _DEADLINE
        while time.monotonic() < deadline and self._process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2),
            ):
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "server.log").read_text()[-3000:])

    def kill(self) -> None:
        """SIGKILLs it and its workers."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None


@contextmanager
def tracked(uri: str, **settings: Any) -> Iterator[tailrace.Tracker]:
    """A tracker whose agent is a thread of this process, which has MLflow imported already; ended at the end."""
    given = {**PROMPT, "agent": "thread", "quiet": True, "tracking_uri": uri, **settings}
    tracker = tailrace.Tracker(**given)
    try:
        yield tracker
    finally:
        tracker_core_of(tracker).close()


def log_noted(tracker: tailrace.Tracker | tailrace.Run, journal: Journal, steps: range, **values: float) -> None:
    """Logs the values at each step, and notes each call that has returned. Without values, the step's half."""
    for step in steps:
        now = values or {"half": step / 2}
        before = time.time_ns()
        tracker.log(now, step=step)
        journal.note(step, now, before, time.time_ns())
