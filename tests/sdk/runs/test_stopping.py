"""Requests to stop, in the program: from MLflow's UI or a shell, to the run or to one around it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers.commands import tailrace
from helpers.sdk_tools import Store, eventually, named, script, tracking

TRAIN = """
import sys, time
import tailrace as sdk

with sdk.start_run(run_name="asked") as run:
    print(run.run_id, flush=True)
    until = time.monotonic() + 60
    while not sdk.should_stop() and time.monotonic() < until:
        sdk.log(loss=1.0)
        time.sleep(0.01)
print("stopped" if time.monotonic() < until else "late", flush=True)
"""


def test_without_a_request_nothing_is_to_stop(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as sdk:
        assert not sdk.should_stop()
        with sdk.start_run() as run:
            assert not sdk.should_stop()
            assert not run.should_stop()
    with tracking(sqlite_uri, enabled=False) as sdk, sdk.start_run():
        assert not sdk.should_stop()


def test_a_request_is_for_the_run_and_those_in_it_alone(sqlite_uri: str) -> None:
    client = MlflowClient(sqlite_uri)
    with tracking(sqlite_uri, stop_interval=0.1) as sdk:
        with sdk.start_run() as parent, sdk.start_run(nested=True) as child:
            client.set_tag(parent.run_id, "tailrace.stop", "ada: enough")
            eventually(sdk.should_stop)
            assert child.should_stop()
            assert parent.should_stop()
        with sdk.start_run() as other:
            assert not sdk.should_stop()
            assert not other.should_stop()
        with sdk.start_run(run_id=parent.run_id):
            assert not sdk.should_stop(), "what goes on is rid of what its last attempt was asked"
    stopped = Store(sqlite_uri, parent)
    assert "tailrace.stop" not in stopped.tags
    assert Store(sqlite_uri, other).tags.get("tailrace.stopped_by") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "asked"),
    [
        (["--reason", "no hope"], "FINISHED", ": no hope"),
        (["--now"], "KILLED", "now: "),
    ],
)
def test_a_program_is_stopped_from_a_shell(
    sqlite_uri: str, tmp_path: Path, arguments: list[str], status: str, asked: str
) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    variables = {"TAILRACE_STOP_INTERVAL": "0.2", "MLFLOW_TRACKING_URI": sqlite_uri}
    program = subprocess.Popen(
        [sys.executable, "train.py"], cwd=tmp_path, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    run_id = program.stdout.readline().strip()
    result = tailrace("stop", run_id[:8], *arguments, "--tracking-uri", sqlite_uri)
    assert result.exit_code == 0, result.output
    rest, _ = program.communicate(timeout=90)
    assert (rest.strip(), program.returncode) == (("stopped", 0) if status == "FINISHED" else ("", -signal.SIGTERM))
    eventually(lambda: named(sqlite_uri, "asked").status != "RUNNING")
    stored = named(sqlite_uri, "asked")
    assert stored.status == status
    assert asked in stored.tags["tailrace.stopped_by"]


@pytest.mark.slow
def test_with_on_stop_signal_a_program_that_does_not_look_is_stopped(sqlite_uri: str, tmp_path: Path) -> None:
    code = """
import os, signal, time
import tailrace as sdk
from mlflow import MlflowClient

signal.signal(signal.SIGTERM, lambda *_: print("got it", flush=True) or os._exit(3))
with sdk.start_run() as run:
    MlflowClient().set_tag(run.run_id, "tailrace.stop", "ada")
    time.sleep(60)
"""
    settings = {"TAILRACE_ON_STOP": "signal", "TAILRACE_STOP_INTERVAL": "0.2", "MLFLOW_TRACKING_URI": sqlite_uri}
    done = script(tmp_path, code, check=False, **settings)
    assert (done.returncode, "got it" in done.stdout) == (3, True), done.stderr
