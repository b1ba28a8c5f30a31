"""What every benchmark stands on: real MLflow stores, interpreters of their own, and nothing left behind.

Each question is asked in fresh interpreters, so that none measures what another has imported. A child is a function of
a question's module: `bench.child("lag", "watch", uri=…)` calls `lag.watch(uri=…)` there and returns what it returns.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["WORKERS", "Bench"]

WORKERS = 4
"""Of `mlflow server`, by default."""

_HERE = Path(__file__).resolve().parent
_CHILD = """
import importlib, json, os, sys
order = json.loads(sys.stdin.readline())
sys.path.insert(0, order["path"])
found = getattr(importlib.import_module(order["module"]), order["function"])(**order["arguments"])
print("RESULT " + json.dumps(found), flush=True)
sys.stdin.read()
os._exit(0)  # what was to be measured is measured
"""
_PATIENCE = 900.0  # seconds, after which most children are killed


class Bench:
    """One run of the benchmarks. A context manager: leaving it ends and removes all that it made.

    Args:
        quick: Few repetitions: to see that it works, not for figures to quote.
        rivals: Interpreter that has the other trackers installed, or None.
        points: How many the large run has; None for as many as take minutes.
    """

    def __init__(self, *, quick: bool, rivals: Path | None = None, points: int | None = None) -> None:
        self.quick, self.rivals, self.points = quick, rivals, points
        self.dir = Path(tempfile.mkdtemp(prefix="tailrace-bench-"))
        self.state = self.dir / "state"
        self._stack = contextlib.ExitStack()
        self._servers: dict[int, str] = {}
        self._stores = 0
        self._template: Path | None = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.clear()
        shutil.rmtree(self.dir, ignore_errors=True)

    def scale(self, full: int, quick: int) -> int:
        """How many, in this run."""
        return quick if self.quick else full

    # -- stores ------------------------------------------------------------------------------------------------------

    def sqlite(self) -> str:
        """A fresh SQLite store."""
        self._stores += 1
        directory = self.dir / f"store-{self._stores}"
        directory.mkdir()
        return f"sqlite:///{self._database(directory, f'{directory}/mlruns/0')}"

    def server(self, workers: int = WORKERS) -> str:
        """A real `mlflow server` on SQLite, one for the whole run; those of other sizes serve the same database."""
        if workers not in self._servers:
            self._servers[workers] = self._start_server(workers)
        return self._servers[workers]

    def app_server(self, database: str | None = None) -> str:
        """A server with tailrace's app and MLflow's default number of workers, on a database or a new SQLite file."""
        return self._start_server(WORKERS, database or self.sqlite(), "--app-name", "tailrace")

    def server_on(self, database: str) -> str:
        """A plain server with MLflow's default number of workers on a database that is there."""
        return self._start_server(WORKERS, database)

    def stores(self) -> dict[str, str]:
        """Both, by name."""
        return {"SQLite": self.sqlite(), "HTTP": self.server()}

    def _database(self, directory: Path, artifacts: str) -> Path:
        if self._template is None:  # the schema takes seconds to make, and a millisecond to copy
            self._template = self.dir / "template.db"
            code = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1])"
            command = [sys.executable, "-c", code, f"sqlite:///{self._template}"]
            subprocess.run(command, check=True, capture_output=True, env=self.environment(), cwd=self.dir)
        path = directory / "mlflow.db"
        shutil.copyfile(self._template, path)
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            # The template has the path of its own directory in it.
            db.execute("UPDATE experiments SET artifact_location = ?", (artifacts,))
        return path

    def _start_server(self, workers: int, database: str | None = None, *more: str) -> str:
        directory = self.dir / "server"
        directory.mkdir(exist_ok=True)
        if database is None:
            database = f"sqlite:///{directory / 'mlflow.db'}"
            if not self._servers:
                self._database(directory, "mlflow-artifacts:/0")
        with socket.socket() as probe:
            # Free now; `mlflow server` cannot say which port it would choose by itself.
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", str(workers)]
        command += ["--backend-store-uri", database, *more, "--artifacts-destination", f"{directory}/files"]
        # Without its job runner, which would be a further process on these cores.
        environ = {**self.environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self._stack.enter_context((directory / f"server-{workers}.log").open("wb"))
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environ, cwd=directory, start_new_session=True)
        self._stack.callback(_end_group, server)
        # 90 s at least: MLflow and its workers start cold.
        for _ in range(1800):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return f"http://127.0.0.1:{port}"
            time.sleep(0.05)
        raise RuntimeError(f"the MLflow server did not start:\n{Path(log.name).read_text()[-2000:]}")

    # -- interpreters ------------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Nothing of the user's settings reaches a measurement, and no console is kept: `console` measures that."""
        ours = ("MLFLOW_", "_MLFLOW_", "TAILRACE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        mine = {"TAILRACE_DIR": str(self.state), "TAILRACE_QUIET": "1", "TAILRACE_CONSOLE": "false"}
        mine |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
        return {**kept, **mine, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}

    @contextlib.contextmanager
    def script(
        self, code: str, *argv: str, python: Path | None = None, patience: float = _PATIENCE
    ) -> Iterator[subprocess.Popen[str]]:
        """An interpreter that runs `code`, with pipes to its stdin and stdout; killed after `patience` seconds."""
        log = self.dir / "child.log"
        with log.open("w") as errors:
            child = subprocess.Popen(
                [str(python or sys.executable), "-c", code, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=self.environment(),
                cwd=self.dir,
            )
        # A child that hangs would leave `readline` waiting for ever.
        watchdog = threading.Timer(patience, child.kill)
        watchdog.start()
        try:
            yield child
        except Exception as error:
            raise RuntimeError(f"{error}\n{log.read_text()[-3000:]}") from error
        finally:
            watchdog.cancel()
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                child.communicate(timeout=30)
            child.kill()
            self.clear()

    def child(self, module: str, function: str, *, python: Path | None = None, **arguments: object) -> Any:
        """Calls a function in a fresh interpreter; what it returns (as JSON)."""
        order = {"path": str(_HERE), "module": module, "function": function, "arguments": arguments}
        with self.script(_CHILD, python=python) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps(order) + "\n")
            child.stdin.flush()
            for line in child.stdout:
                # Libraries print on standard output as well.
                if line.startswith("RESULT "):
                    return json.loads(line[7:])
            raise RuntimeError(f"{module}.{function} ended without a result")

    def clear(self) -> None:
        """Ends the agents of this run's sessions (they outlive their programs), and gives their memory back."""
        import psutil

        for process in psutil.process_iter(["cmdline"]):
            # By the directory, which is this run's alone: no other agent of the user is touched.
            if any(str(self.state) in argument for argument in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.Error):
                    process.kill()
                    process.wait(5)
        for info in self.state.glob("**/session.json"):
            with contextlib.suppress(OSError, ValueError):
                shutil.rmtree(json.loads(info.read_text())["shared"], ignore_errors=True)
        shutil.rmtree(self.state, ignore_errors=True)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (15, 9):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            # The whole group: `mlflow server` is a parent with workers.
            os.killpg(process.pid, number)
            process.wait(5)
