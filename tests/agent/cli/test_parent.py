"""`tailrace run -- CMD` is the parent of a job: signals go through it, and its run ends by the exit code."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import mlflow
import pytest

from helpers.ranks import launch, start
from helpers.sdk_tools import Store, command_line, eventually, forget
from tailrace_agent.runtime.processes import Process, process

pytestmark = pytest.mark.slow

TRAIN = """
import os, sys, time
import tailrace as sdk
run = sdk.start_run()
sdk.log(step=1, loss=1.0)
"""


def only_run(uri: str, directory: Path) -> Store:
    forget(directory)
    (run,) = mlflow.MlflowClient(uri).search_runs(["0"])
    return Store(uri, run.info.run_id)


def wrapped(directory: Path) -> tuple[str, ...]:
    (directory / "bin").mkdir(exist_ok=True)
    return (*command_line(directory / "bin"), "run", "--")


def test_a_command_that_ends_well_leaves_a_finished_run(sqlite_uri: str, tmp_path: Path) -> None:
    code, _, err = launch(tmp_path, TRAIN, ranks=3, before=wrapped(tmp_path), TAILRACE_TRACKING_URI=sqlite_uri)
    assert code == 0, err
    assert len(list((tmp_path / "tailrace" / "sessions").iterdir())) == 1
    assert only_run(sqlite_uri, tmp_path).status == "FINISHED"


def test_a_command_that_fails_makes_the_run_failed_whatever_its_ranks_have_said(
    sqlite_uri: str, tmp_path: Path
) -> None:
    before = (*wrapped(tmp_path), "sh", "-c", '"$@"; exit 7', "sh")
    code, _, err = launch(tmp_path, TRAIN, before=before, TAILRACE_TRACKING_URI=sqlite_uri)
    assert code == 7, err
    run = only_run(sqlite_uri, tmp_path)
    assert (run.status, run.tags["tailrace.end_reason"]) == (
        "FAILED",
        "the command of `tailrace run` ended with exit code 7",
    )


def test_a_signal_goes_to_the_command_and_the_exit_code_says_so(sqlite_uri: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(f"{TRAIN}open('ready', 'w').close()\ntime.sleep(60)")
    import subprocess

    environ = {**os.environ, "TAILRACE_DIR": str(tmp_path / "tailrace"), "TAILRACE_TRACKING_URI": sqlite_uri}
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    parent = subprocess.Popen([*wrapped(tmp_path), "train.py"], cwd=tmp_path, env=environ, stderr=subprocess.PIPE)
    eventually((tmp_path / "ready").exists)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) == 128 + signal.SIGTERM, parent.stderr.read()  # type: ignore[union-attr]
    run = only_run(sqlite_uri, tmp_path)
    assert run.status == "KILLED"
    assert "was killed by SIGTERM" in run.tags["tailrace.end_reason"]


def test_a_parent_that_is_killed_leaves_the_end_to_the_ranks(sqlite_uri: str, tmp_path: Path) -> None:
    code = f"{TRAIN}open('ready', 'w').close()\ntime.sleep(3)\nsdk.end_run()"
    parent = start(tmp_path, code, ranks=1, before=wrapped(tmp_path), TAILRACE_TRACKING_URI=sqlite_uri)
    eventually((tmp_path / "ready").exists)
    parent.kill()
    parent.wait()
    time.sleep(4)
    assert only_run(sqlite_uri, tmp_path).status == "FINISHED"
    for pipe in (parent.stdout, parent.stderr):
        pipe.close()  # type: ignore[union-attr]


def test_two_parents_of_one_job_on_one_machine_are_refused(tmp_path: Path) -> None:
    code = "open('ready', 'w').close()\nimport time\ntime.sleep(20)"
    first = start(tmp_path, code, ranks=1, before=wrapped(tmp_path), TAILRACE_JOB="mine")
    eventually((tmp_path / "ready").exists)
    code, _, err = launch(tmp_path, "pass", before=wrapped(tmp_path), TAILRACE_JOB="mine")
    first.terminate()
    first.communicate(timeout=30)
    assert code != 0
    assert "has a parent already" in err


def test_a_command_that_is_not_there_is_said(tmp_path: Path) -> None:
    code, _, err = launch(tmp_path, "pass", before=(*wrapped(tmp_path), "no-such-command"))
    assert (code != 0, "there is no no-such-command" in err) == (True, True)


def test_a_process_is_known_by_its_id_and_when_it_began() -> None:
    assert isinstance(process(os.getpid()), Process)
