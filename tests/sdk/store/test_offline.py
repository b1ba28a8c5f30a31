"""Runs that begin while the tracking server is away: `tailrace.store.offline`."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import Store, eventually, forget, script

BEGINS_WITHOUT = """
import sys
import mlflow, tailrace
tailrace.install(offline=True)
client = mlflow.MlflowClient()
mlflow.set_experiment("asked for while away")
with mlflow.start_run(run_name="outer", tags={"a": "b"}) as outer:
    mlflow.log_params({"lr": 0.1})
    mlflow.log_metric("loss", 0.5, step=1)
    mlflow.log_text("text", "text.txt")
    seen = mlflow.get_run(outer.info.run_id)
    assert (seen.data.metrics, seen.data.params, seen.info.status) == ({"loss": 0.5}, {"lr": "0.1"}, "RUNNING"), seen
    with mlflow.start_run(nested=True) as inner:
        mlflow.log_metric("loss", 0.25)
    seen = mlflow.get_run(inner.info.run_id)
    assert (seen.data.metrics, seen.info.status) == ({"loss": 0.25}, "FINISHED"), seen
    try:
        client.get_metric_history(outer.info.run_id, "loss")
    except mlflow.MlflowException as error:
        print(error.error_code)
    try:
        mlflow.search_runs()
    except mlflow.MlflowException as error:
        print(error.error_code)
    print("away", flush=True)  # and no link has been printed, to a run that is nowhere
    sys.stdin.readline()
    mlflow.log_metric("loss", 0.125, step=2)
    print(*(metric.value for metric in client.get_metric_history(outer.info.run_id, "loss")))
    print(mlflow.get_run(outer.info.run_id).data.tags["a"])
with mlflow.start_run() as later:
    mlflow.log_metric("loss", 0.75)
print(outer.info.run_id, inner.info.run_id, later.info.run_id, flush=True)
"""


class _Relay(socketserver.ThreadingTCPServer):
    """What answers at an address at which a server was away until now."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, server: str) -> None:
        url = urlsplit(server)
        self.target = url.hostname, url.port
        super().__init__(("127.0.0.1", port), _Relayed)


class _Relayed(socketserver.BaseRequestHandler):
    server: _Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as there:
            back = threading.Thread(target=_copy, args=(there, self.request), daemon=True)
            back.start()
            _copy(self.request, there)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def port() -> int:
    """Nobody listens at it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def _away(tmp_path: Path, port: int) -> dict[str, str]:
    return {
        "TAILRACE_DIR": str(tmp_path / "tailrace"),
        "TAILRACE_END_TIMEOUT": "20",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
    }


@pytest.mark.slow
def test_runs_that_begin_while_the_server_is_away_reach_it_when_it_is_back(
    mlflow_server: str, port: int, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(BEGINS_WITHOUT)
    program = subprocess.Popen(
        [sys.executable, "train.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **_away(tmp_path, port)},
        cwd=tmp_path,
    )
    assert program.stdout is not None
    before = [program.stdout.readline().strip() for _ in range(3)]
    with _Relay(port, mlflow_server) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        out, errors = program.communicate("\n", timeout=100)
        assert (before, program.returncode) == (["TEMPORARILY_UNAVAILABLE", "TEMPORARILY_UNAVAILABLE", "away"], 0), (
            errors
        )
        history, tag, ids = [line for line in out.splitlines() if "View " not in line]
        outer_id, inner_id, later_id = ids.split()
        outer, inner = (eventually(lambda name=name: _found(mlflow_server, name)) for name in (outer_id, inner_id))  # type: ignore[misc]
        forget(tmp_path)
        relay.shutdown()
    assert (history, tag) == ("0.5 0.125", "b")
    assert (outer.status, outer.history("loss"), outer.params) == ("FINISHED", [(1, 0.5), (2, 0.125)], {"lr": "0.1"})
    assert (outer.run.info.run_name, outer.tags["a"], outer.artifacts()) == ("outer", "b", ["text.txt"])
    assert (inner.status, inner.history("loss")) == ("FINISHED", [(0, 0.25)])
    assert inner.tags["mlflow.parentRunId"] == outer.run.info.run_id
    later = Store(mlflow_server, later_id)
    assert (later.status, later.history("loss")) == ("FINISHED", [(0, 0.75)])
    assert outer.run.info.experiment_id == inner.run.info.experiment_id == later.run.info.experiment_id
    experiment = MlflowClient(mlflow_server).get_experiment(outer.run.info.experiment_id)
    assert experiment.name == "asked for while away"


def _found(server: str, name: str) -> Store | None:
    client = MlflowClient(server)
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(everywhere, f"tags.`tailrace.offline_run_id` = '{name}'")
    return Store(server, found[0].info.run_id) if found and found[0].info.status == "FINISHED" else None


@pytest.mark.slow
def test_without_that_option_a_server_that_is_away_is_mlflow_s_own_error(port: int, tmp_path: Path) -> None:
    code = """
    import mlflow, tailrace
    tailrace.install()
    try:
        mlflow.start_run()
    except mlflow.MlflowException as error:
        print("refused" in str(error))
    """
    done = script(tmp_path, code, **_away(tmp_path, port), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.stdout.split() == ["True"]
    forget(tmp_path)


@pytest.mark.slow
def test_with_the_server_there_the_option_changes_nothing(mlflow_server: str, tmp_path: Path) -> None:
    code = """
    import mlflow, tailrace
    tailrace.install(offline=True)
    mlflow.set_experiment("asked for while there")
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5)
        mlflow.log_text("text", "text.txt")
    print(run.info.run_id)
    """
    done = script(tmp_path, code, MLFLOW_TRACKING_URI=mlflow_server)
    run = Store(mlflow_server, done.stdout.split()[-1])
    assert (run.status, run.history("loss"), run.artifacts()) == ("FINISHED", [(0, 0.5)], ["text.txt"])
    assert "tailrace.offline_run_id" not in run.tags
    forget(tmp_path)
