"""`integrations/xgboost`: what XGBoost measures, in MLflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import eventually, named
from tailrace import Tracker

xgboost = pytest.importorskip("xgboost")
from tailrace.integrations.xgboost import TailraceCallback  # noqa: E402

PARAMS = {"objective": "binary:logistic", "max_depth": 2, "eta": 0.25, "nthread": 1}


def rows() -> Any:
    x = np.arange(200.0).reshape(100, 2)
    return xgboost.DMatrix(x, label=np.arange(100) % 3 == 0)


def test_each_round_is_a_step_and_the_boosters_parameters_are_params(sdk: Tracker, sqlite_uri: str) -> None:
    callback = TailraceCallback("boosted", tracker=sdk)
    result: dict[str, Any] = {}
    evaluations = [(rows(), "train"), (rows(), "val")]
    xgboost.train(PARAMS, rows(), 4, evals=evaluations, evals_result=result, verbose_eval=False, callbacks=[callback])
    store = named(sqlite_uri, "boosted")
    assert store.status == "FINISHED"
    assert store.metrics() == {
        f"{data}/logloss": [(n, pytest.approx(value)) for n, value in enumerate(result[data]["logloss"])]
        for data in ("train", "val")
    }
    assert {name: store.params[name] for name in ("objective", "max_depth", "eta")} == {
        "objective": "binary:logistic",
        "max_depth": "2",
        "eta": "0.25",
    }


def test_early_stopping_leaves_the_best_round_in_the_active_run(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run(run_name="outer") as run:
        callbacks = [TailraceCallback(tracker=sdk), xgboost.callback.EarlyStopping(rounds=2, maximize=True)]
        booster = xgboost.train(PARAMS, rows(), 50, evals=[(rows(), "train")], verbose_eval=False, callbacks=callbacks)
        assert run.status == "RUNNING"
    store = named(sqlite_uri, "outer")
    assert store.history("best_iteration") == [(booster.best_iteration, booster.best_iteration)]
    assert [step for step, _ in store.history("train/logloss")] == [0, 1, 2]


def test_a_cross_validation_has_means_and_deviations(sdk: Tracker, sqlite_uri: str) -> None:
    xgboost.cv(PARAMS, rows(), 3, nfold=2, callbacks=[TailraceCallback("cv", tracker=sdk)])
    store = named(sqlite_uri, "cv")
    names = {f"{data}/logloss{end}" for data in ("train", "test") for end in ("", "_std")}
    assert {name: len(points) for name, points in store.metrics().items()} == dict.fromkeys(names, 3)


def test_an_estimator_takes_it_and_can_be_cloned_with_it(sdk: Tracker, sqlite_uri: str) -> None:
    from sklearn.base import clone

    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    model = xgboost.XGBClassifier(n_estimators=2, n_jobs=1, callbacks=[TailraceCallback("sk", tracker=sdk)])
    clone(model).fit(x, y, eval_set=[(x, y)], verbose=False)
    assert len(named(sqlite_uri, "sk").history("validation_0/logloss")) == 2


def test_a_training_that_raises_is_failed_once_its_callback_is_gone(sdk: Tracker, sqlite_uri: str) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("no gradient")

    def train() -> None:
        xgboost.train(PARAMS, rows(), 2, obj=fails, callbacks=[TailraceCallback("failing", tracker=sdk)])

    with pytest.raises(ValueError, match="no gradient"):
        train()
    assert sdk.active_run() is None
    # What has been handed over is not waited for.
    eventually(lambda: MlflowClient(sqlite_uri).search_runs(["0"], "attributes.status = 'FAILED'"))


def test_a_training_whose_run_is_asked_to_stop_ends_with_the_round(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run(run_name="asked") as run:
        run.__dict__["should_stop"] = lambda: True
        callbacks = [TailraceCallback(tracker=run)]
        booster = xgboost.train(PARAMS, rows(), 50, evals=[(rows(), "val")], verbose_eval=False, callbacks=callbacks)
    assert booster.num_boosted_rounds() == 1
    assert named(sqlite_uri, "asked").status == "FINISHED"
