"""What the tests of searches share: a space, and the runs that a search has left."""

from __future__ import annotations

from mlflow import MlflowClient

from helpers.sdk_tools import Store

SPACE = {
    "x": {"type": "float", "low": -2.0, "high": 2.0},
    "kind": {"type": "categorical", "choices": ["a", "b"]},
}
"""Two parameters."""


def trials_below(uri: str, parent: str | None) -> dict[str, Store]:
    """The runs below one, by their names."""
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_name: Store(uri, run.info.run_id) for run in found}


def parent_runs(uri: str) -> list[str]:
    """MLflow's ids of the runs that are below none."""
    client = MlflowClient(uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags]
