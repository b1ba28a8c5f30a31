"""Runs in a store that MLflow opens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag

from tailrace_agent.mlflow.own_runs import MlflowRuns


def test_a_run_of_any_store_is_read_with_the_steps_that_it_has(tmp_path: Path) -> None:
    info = RunInfo("r", 7, "ada", "FINISHED", 1, 2, "active", artifact_uri=None, run_name=None)
    metrics = [Metric("a", 1.0, 1, 3), Metric("b/c", 1.0, 1, 0)]
    store = SimpleNamespace(get_run=lambda _: Run(info, RunData(metrics, [Param("lr", "1")], [RunTag("k", "v")])))
    run = MlflowRuns("x://", store, 1).run("r")
    assert (run.run_id, run.experiment_id, run.name, run.artifact_uri) == ("r", "7", "", "")
    assert (run.status, run.end_time, dict(run.tags), run.steps) == ("FINISHED", 2, {"k": "v"}, {"a": 3, "b/c": 0})
    assert dict(run.params) == {"lr": "1"}
    others = SimpleNamespace(info=info, data=SimpleNamespace(metrics={"a": 1.0}, tags={}, params={}))
    assert MlflowRuns("x://", SimpleNamespace(get_run=lambda _: others), 1).run("r").steps == {"a": -1}
