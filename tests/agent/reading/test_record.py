"""A run as it is read back answers as MLflow's does, too."""

from __future__ import annotations

import mlflow
from mlflow import MlflowClient

from helpers.sdk_tools import tracking


def test_a_record_has_what_scripts_read_of_mlflows_run(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as sdk:
        with sdk.start_run(run_name="one", params={"lr": 0.1}, tags={"team": "a"}) as run:
            sdk.log_metric("loss", 0.5)
        running = sdk.start_run(run_name="two")
        assert running.run_id
        found = {each.run_name: each for each in sdk.search_runs(output_format="list")}  # type: ignore[union-attr]
    stored = MlflowClient(sqlite_uri).get_run(run.run_id)
    ours: mlflow.entities.Run = found["one"]
    for name in ("run_id", "run_name", "experiment_id", "status", "start_time", "end_time"):
        assert getattr(ours.info, name) == getattr(stored.info, name), name
    for name in ("artifact_uri", "lifecycle_stage", "user_id"):
        assert getattr(ours.info, name) == getattr(stored.info, name), name
    assert ours.data.metrics == stored.data.metrics
    assert ours.data.params == stored.data.params
    assert ours.data.tags == stored.data.tags
    assert found["two"].info.end_time is None
