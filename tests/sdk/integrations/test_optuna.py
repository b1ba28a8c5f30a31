"""`integrations/optuna`: each trial of a study is a run in MLflow."""

from __future__ import annotations

import threading
from typing import Any

import mlflow
import pytest

from helpers.least_tracker import LeastTracker
from helpers.sdk_tools import Store
from tailrace import CallError, Tracker

optuna = pytest.importorskip("optuna")
from tailrace.integrations.optuna import TailraceCallback  # noqa: E402


def stores(uri: str) -> dict[str, Store]:
    found = [Store(uri, run.info.run_id) for run in mlflow.MlflowClient(uri).search_runs(["0"])]
    return {store.tags["mlflow.runName"]: store for store in found}


def study() -> Any:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(study_name="digits", sampler=optuna.samplers.RandomSampler(seed=0))


def objective(trial: Any) -> float:
    x: float = trial.suggest_float("x", 0, 1)
    if trial.number == 1:
        raise optuna.TrialPruned
    if trial.number == 2:
        raise ValueError("it diverges")
    return x


@pytest.mark.slow
def test_each_trial_is_a_run_with_its_parameters_value_and_state(sdk: Tracker, sqlite_uri: str) -> None:
    search = study()
    search.optimize(objective, 4, callbacks=[TailraceCallback("loss", tracker=sdk)], catch=ValueError)
    found = stores(sqlite_uri)
    assert sorted(found) == [f"trial_{n:04d}" for n in range(4)]
    for trial in search.trials:
        store = found[f"trial_{trial.number:04d}"]
        assert store.params == {"hpo/x": str(trial.params["x"]), "trial_number": str(trial.number)}
        assert store.tags["trial.state"] == trial.state.name
        assert store.status == ("FAILED" if trial.number == 2 else "FINISHED")
    assert found["trial_0003"].history("trial/loss") == [(0, search.trials[3].value)]


@pytest.mark.parametrize("error", [ValueError("it diverges"), KeyboardInterrupt()])
def test_an_error_that_ends_the_study_ends_its_trial(sdk: Tracker, sqlite_uri: str, error: BaseException) -> None:
    callback = TailraceCallback("loss", tracker=sdk)

    def failing(trial: Any) -> float:
        trial.suggest_float("x", 0, 1)
        raise error

    with pytest.raises(type(error)):
        study().optimize(callback.tracked(failing), 1, callbacks=[callback])
    assert sdk.active_run() is None
    if isinstance(error, Exception):
        study().optimize(callback.tracked(failing), 1, callbacks=[callback], catch=ValueError)
    study().optimize(callback.tracked(lambda trial: 1.0), 1, callbacks=[callback])
    found = [Store(sqlite_uri, run.info.run_id) for run in mlflow.MlflowClient(sqlite_uri).search_runs(["0"])]
    last, *failed = found
    assert (last.status, last.history("trial/loss")) == ("FINISHED", [(0, 1.0)])
    assert len(failed) == (2 if isinstance(error, Exception) else 1)
    for store in failed:
        assert (store.status, store.tags["trial.state"], "hpo/x" in store.params) == ("FAILED", "FAIL", True)
        assert store.tags["error.type"] == type(error).__name__


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_objective_logs_to_its_trials_run_below_the_active_one(sdk: Tracker, sqlite_uri: str, jobs: int) -> None:
    callback = TailraceCallback(tracker=sdk)

    def logging(trial: Any) -> float:
        sdk.log({"inside": trial.number}, step=5)
        return float(trial.suggest_float("x", 0, 1))

    with sdk.start_run(run_name="above") as run:
        study().optimize(callback.tracked(logging), 3, n_jobs=jobs, callbacks=[callback])
        parent = run.run_id
    found = stores(sqlite_uri)
    for n in range(3):
        store = found[f"trial_{n:04d}"]
        assert store.history("inside") == [(5, n)]
        assert store.tags["mlflow.parentRunId"] == parent
    assert found["above"].metrics() == {}


def test_trials_in_several_threads_are_beside_one_another(sdk: Tracker, sqlite_uri: str) -> None:
    callback, together = TailraceCallback(tracker=sdk), threading.Barrier(2)

    def logging(trial: Any) -> float:
        together.wait(30)
        sdk.log({"inside": trial.number}, step=5)
        together.wait(30)
        return float(trial.suggest_float("x", 0, 1))

    study().optimize(callback.tracked(logging), 2, n_jobs=2, callbacks=[callback])
    found = stores(sqlite_uri)
    assert {name: store.history("inside") for name, store in found.items()} == {
        "trial_0000": [(5, 0)],
        "trial_0001": [(5, 1)],
    }
    assert not any("mlflow.parentRunId" in store.tags for store in found.values())


def test_several_values_have_several_names(sdk: Tracker, sqlite_uri: str) -> None:
    def two(trial: Any) -> tuple[float, float]:
        return trial.suggest_float("x", 0, 1), 2.0

    for metric in (["loss", "size"], "value"):
        search = optuna.create_study(directions=["minimize", "minimize"])
        search.optimize(two, 1, callbacks=[TailraceCallback(metric, tracker=sdk)])
    names = {name for run in mlflow.MlflowClient(sqlite_uri).search_runs(["0"]) for name in run.data.metrics}
    assert names == {"trial/loss", "trial/size", "trial/value_0", "trial/value_1"}


def test_any_tracker_will_do_and_what_is_none_is_a_clear_error() -> None:
    tracker = LeastTracker()
    study().optimize(objective, 1, callbacks=[TailraceCallback(tracker=tracker)])
    assert (tracker.started, tracker.ended, tracker.params["trial_number"]) == (["trial_0000"], ["FINISHED"], 0)
    with pytest.raises(CallError, match="no start_run"):
        TailraceCallback(tracker="here")
