"""A run that is gone on with: what MLflow has of the ends that it had before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.sdk_tools import Store, eventually, forget, script

PROGRAM = """
import os, signal
import tailrace
if os.environ["BY"] == "mlflow":
    import mlflow
    tailrace.install()
else:
    mlflow = tailrace
run = mlflow.start_run(run_id=os.environ.get("RUN_ID"))
if os.environ["HOW"] == "killed":
    mlflow.log_metric("loss", 1.0)
    print(run.info.run_id if mlflow is not tailrace else run.run_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
print(run.info.run_id if mlflow is not tailrace else run.run_id, flush=True)
if os.environ["HOW"] == "failed":
    raise ValueError("no")
mlflow.end_run()
"""
_TAGS = ("tailrace.end_reason", "error.type", "error.message")


@pytest.mark.slow
@pytest.mark.parametrize("by", ["tailrace", "mlflow"])
def test_a_run_says_of_its_last_attempt_alone_what_went_wrong(by: str, sqlite_uri: str, tmp_path: Path) -> None:
    variables = {"MLFLOW_TRACKING_URI": sqlite_uri, "BY": by, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}

    def attempt(how: str, status: str, **more: str) -> Store:
        done = script(tmp_path, PROGRAM, check=False, HOW=how, **variables, **more)
        run_id = done.stdout.split()[0]
        forget(tmp_path)
        return eventually(lambda: _with(status, Store(sqlite_uri, run_id)), timeout=60)

    killed = attempt("killed", "KILLED")
    assert [key for key in _TAGS if key in killed.tags] == ["tailrace.end_reason"]
    failed = attempt("failed", "FAILED", RUN_ID=killed.run_id)
    assert failed.run_id == killed.run_id
    # MLflow itself writes no such tags, and the plug-in those of runs alone that its program has created.
    assert [key for key in _TAGS if key in failed.tags] == ([] if by == "mlflow" else ["error.type", "error.message"])
    well = attempt("well", "FINISHED", RUN_ID=killed.run_id)
    assert [key for key in _TAGS if key in well.tags] == []


def _with(status: str, run: Store) -> Store | None:
    return run if run.status == status else None
