"""The link that MLflow prints when a run ends: `tailrace.store.links`."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.sdk_tools import eventually, forget, named, script

ENDED = """
import mlflow, requests, tailrace
tailrace.install()
requested, send = [], requests.Session.send

def noted(session, request, **options):
    requested.append(request.url)
    return send(session, request, **options)

requests.Session.send = noted
mlflow.set_experiment("links")
with mlflow.start_run(run_name="first") as run:
    mlflow.set_tag("mlflow.runName", "linked")
    mlflow.log_metric("loss", 1.0)
    assert requested
    requested.clear()
print("REQUESTED", requested)
with mlflow.start_run(run_name="first"):
    mlflow.MlflowClient().update_run(mlflow.active_run().info.run_id, name="updated")
print("EXPECTED", run.info.experiment_id, run.info.run_id)
"""


@pytest.mark.slow
def test_a_run_ends_without_a_request_and_its_link_has_its_name(mlflow_server: str, tmp_path: Path) -> None:
    done = script(tmp_path, ENDED, MLFLOW_TRACKING_URI=mlflow_server)
    lines = done.stdout.splitlines()
    assert "REQUESTED []" in lines
    experiment, run_id = next(line.split()[1:] for line in lines if line.startswith("EXPECTED"))
    assert f"🏃 View run linked at: {mlflow_server}/#/experiments/{experiment}/runs/{run_id}" in lines
    assert any(line.startswith("🏃 View run updated at: ") for line in lines)
    assert eventually(lambda: named(mlflow_server, "linked").status == "FINISHED")
    forget(tmp_path)
