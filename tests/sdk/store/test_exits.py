"""The end of a program with the plug-in: `tailrace.store.exits`."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.sdk_tools import Store, forget, named, script

RAISED = """
import mlflow, tailrace
tailrace.install()
mlflow.start_run()
mlflow.log_metric("loss", 1.0)
print(mlflow.active_run().info.run_id, flush=True)
raise ValueError("no")
"""


@pytest.mark.slow
def test_a_program_that_an_exception_ends_leaves_its_run_failed(sqlite_uri: str, tmp_path: Path) -> None:
    done = script(tmp_path, RAISED, check=False, MLFLOW_TRACKING_URI=sqlite_uri)
    run = Store(sqlite_uri, done.stdout.split()[0])
    assert (done.returncode, run.status, run.history("loss")) == (1, "FAILED", [(0, 1.0)])
    forget(tmp_path)


LEFT = """
import tailrace as sdk, mlflow
sdk.install()
sdk.start_run(run_name="of tailrace", quiet=True)
print(sdk.active_run().run_id, flush=True)
sdk.log(step=0, loss=1.0)
raise ValueError("no")
"""


@pytest.mark.slow
def test_a_run_that_tailrace_has_begun_is_ended_by_tailrace_with_what_went_wrong(
    sqlite_uri: str, tmp_path: Path
) -> None:
    done = script(tmp_path, LEFT, check=False, MLFLOW_TRACKING_URI=sqlite_uri)
    run = Store(sqlite_uri, done.stdout.split()[0])
    assert (run.status, run.tags["error.type"], run.tags["error.message"]) == ("FAILED", "ValueError", "no")
    forget(tmp_path)


DELETED = """
import mlflow, tailrace
tailrace.install()
mlflow.start_run(run_name="outer")
inner = mlflow.start_run(run_name="inner", nested=True)
mlflow.log_metric("loss", 1.0)
mlflow.delete_run(inner.info.run_id)
"""


@pytest.mark.slow
def test_a_run_that_was_deleted_keeps_no_other_from_its_end(sqlite_uri: str, tmp_path: Path) -> None:
    done = script(tmp_path, DELETED, MLFLOW_TRACKING_URI=sqlite_uri)
    assert "Traceback" not in done.stderr
    assert "could not be ended" in done.stderr
    assert named(sqlite_uri, "outer").status == "FINISHED"
    forget(tmp_path)


OF_OTHERS = """
import atexit, os
import mlflow
uri = os.environ["MLFLOW_TRACKING_URI"]
client = mlflow.MlflowClient()
experiment = client.create_experiment("of others")
others, ended = (client.create_run(experiment).info.run_id for _ in range(2))

def look():  # once the plug-in has done its part of the exit
    for run_id in (others, ended):
        print(*[point.value for point in inner.get_metric_history(run_id, "loss")])

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
inner = SqlAlchemyStore(uri, "artifacts")
atexit.register(look)
import tailrace
tailrace.install()
later = mlflow.MlflowClient()
later.log_metric(others, "loss", 1.0)
with mlflow.start_run(run_id=ended):
    mlflow.log_metric("loss", 2.0)
later.log_metric(ended, "loss", 3.0, step=1)
"""


@pytest.mark.slow
def test_what_a_program_adds_to_runs_that_it_does_not_end_is_there_when_it_is_over(
    sqlite_uri: str, tmp_path: Path
) -> None:
    done = script(tmp_path, OF_OTHERS, MLFLOW_TRACKING_URI=sqlite_uri)
    assert done.stdout.splitlines()[-2:] == ["1.0", "2.0 3.0"], done.stderr
    forget(tmp_path)
