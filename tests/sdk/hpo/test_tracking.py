"""Which trackers a search takes, and what it does with them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from mlflow import MlflowClient

import tailrace
from helpers.sdk_tools import Store
from helpers.searches import SPACE, parent_runs, trials_below
from tailrace.hpo import OptunaRunner
from tailrace.hpo.tracking import SearchTracker


def test_by_default_runs_are_those_of_the_module_and_go_where_optimize_is_told(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_AGENT", "thread")
    monkeypatch.setenv("TAILRACE_QUIET", "true")

    def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        tailrace.log(step=0, loss=1.0)
        return 1.0

    result = OptunaRunner("module").optimize(
        objective, 1, SPACE, mlflow_tracking_uri=sqlite_uri, mlflow_experiment_name="found"
    )
    child = trials_below(sqlite_uri, result.parent_run_id)["trial_0000"]
    assert child.history("loss") == [(0, 1.0)]
    experiment = MlflowClient(sqlite_uri).get_experiment_by_name("found")
    assert {Store(sqlite_uri, str(result.parent_run_id)).run.info.experiment_id, child.run.info.experiment_id} == {
        experiment.experiment_id
    }


class Plain:
    """A tracker with no more than `TrackerLike` has: MLflow's own functions."""

    start_run = staticmethod(mlflow.start_run)
    end_run = staticmethod(mlflow.end_run)
    set_tags = staticmethod(mlflow.set_tags)
    log_params = staticmethod(mlflow.log_params)
    log_config = staticmethod(mlflow.log_params)
    log_figure = staticmethod(mlflow.log_figure)
    log_artifact = staticmethod(mlflow.log_artifact)

    def log(self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, **values: Any) -> None:
        mlflow.log_metrics({**(metrics or {}), **values}, step=step)


def test_any_tracker_will_do_and_what_it_cannot_do_is_left_out_with_a_word(sqlite_uri: str) -> None:
    def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        mlflow.log_metric("loss", 1.0)
        if trial.number == 1:
            raise ValueError("one")
        return 1.0

    mlflow.set_tracking_uri(sqlite_uri)
    with contextlib.ExitStack() as stack:
        stack.callback(mlflow.set_tracking_uri, None)
        warned = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("default")
        runner = OptunaRunner("plain", metric="acc", prune_on="loss", tracker=Plain())
        result = runner.optimize(objective, 3, SPACE, catch=ValueError)
    assert result.counts == (3, 2, 0, 1, 0)
    assert any("prune_on does nothing: report by trial.report()" in str(each.message) for each in warned)
    (parent,) = parent_runs(sqlite_uri)
    assert Store(sqlite_uri, parent).run.data.metrics["total_trials"] == 3
    children = trials_below(sqlite_uri, parent)
    assert [children[name].status for name in sorted(children)] == ["FINISHED", "FAILED", "FINISHED"]
    assert children["trial_0000"].history("loss") == [(0, 1.0)]


def test_runs_are_looked_for_where_optimize_sends_them(
    tracker: tailrace.Tracker, sqlite_uri: str, tmp_path: Path
) -> None:
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    with tracker.start_run(tracking_uri=elsewhere) as run:
        run_id = run.run_id
    query = f"tags.`tailrace.run` = '{run.id}'"
    assert SearchTracker(tracker, {"tracking_uri": elsewhere}).find(query) == [run_id]
    assert SearchTracker(tracker).find(query) == []
