"""One active run for MLflow and tailrace: `tailrace.store.active_run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import eventually, forget, script

BOTH = """
import sys
import tailrace as sdk, mlflow
sdk.install()
with mlflow.start_run(run_name="of mlflow") as outer:
    sdk.log(step=1, a=1.0)
    mlflow.log_metric("b", 2.0)
    with mlflow.start_run(run_name="below it", nested=True):
        sdk.log(step=1, inner=1.0)
    sdk.log(step=2, a=2.0)
    assert mlflow.MlflowClient().get_metric_history(outer.info.run_id, "a")[-1].value == 2.0
assert sdk.active_run() is None and mlflow.active_run() is None
with sdk.start_run(run_name="of tailrace", quiet=True) as run:
    mlflow.log_metric("c", 1.0)
    mlflow.set_tag("from", "mlflow")
    with mlflow.start_run(run_name="below that", nested=True):
        sdk.log(step=0, deep=1.0)
    sdk.log(step=1, d=1.0)
    assert mlflow.active_run().info.run_id == run.run_id
assert mlflow.active_run() is None
sdk.start_run(run_name="ended by mlflow", quiet=True)
mlflow.log_metric("e", 1.0)
mlflow.end_run("FAILED")
assert sdk.active_run() is None
"""


@pytest.mark.slow
def test_tailrace_and_mlflow_have_one_active_run_whichever_has_begun_it(sqlite_uri: str, tmp_path: Path) -> None:
    script(tmp_path, BOTH, MLFLOW_TRACKING_URI=sqlite_uri)
    client = MlflowClient(sqlite_uri)
    runs = {run.info.run_name: run for run in eventually(lambda: _all_ended(client))}
    assert {name: (run.info.status, run.data.metrics) for name, run in runs.items()} == {
        "of mlflow": ("FINISHED", {"a": 2.0, "b": 2.0}),
        "below it": ("FINISHED", {"inner": 1.0}),
        "of tailrace": ("FINISHED", {"c": 1.0, "d": 1.0}),
        "below that": ("FINISHED", {"deep": 1.0}),
        "ended by mlflow": ("FAILED", {"e": 1.0}),
    }
    assert runs["below it"].data.tags["mlflow.parentRunId"] == runs["of mlflow"].info.run_id
    assert runs["below that"].data.tags["mlflow.parentRunId"] == runs["of tailrace"].info.run_id
    assert runs["of tailrace"].data.tags["from"] == "mlflow"
    forget(tmp_path)


def _all_ended(client: MlflowClient) -> list[Any] | None:
    runs = client.search_runs(["0"])
    return runs if all(run.info.status != "RUNNING" for run in runs) else None
