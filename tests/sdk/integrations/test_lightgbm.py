"""`integrations/lightgbm`: what LightGBM measures, in MLflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.sdk_tools import eventually, named
from tailrace import Tracker

lightgbm = pytest.importorskip("lightgbm")
from tailrace.integrations.lightgbm import TailraceCallback  # noqa: E402

PARAMS = {"objective": "binary", "num_leaves": 3, "min_data_in_leaf": 1, "verbose": -1, "num_threads": 1}


def rows() -> Any:
    x = np.arange(200.0).reshape(100, 2)
    return lightgbm.Dataset(x, label=np.arange(100) % 3 == 0, params={"verbose": -1})


def test_each_round_is_a_step_and_the_run_ends_with_the_last(sdk: Tracker, sqlite_uri: str) -> None:
    result: dict[str, Any] = {}
    callbacks = [TailraceCallback("boosted", tracker=sdk), lightgbm.record_evaluation(result)]
    lightgbm.train(PARAMS, data := rows(), 4, valid_sets=[data], valid_names=["val"], callbacks=callbacks)
    store = named(sqlite_uri, "boosted")
    assert (store.status, store.params["num_leaves"]) == ("FINISHED", "3")
    values = result["val"]["binary_logloss"]
    assert store.metrics() == {"val/binary_logloss": [(n, pytest.approx(value)) for n, value in enumerate(values)]}


@pytest.mark.parametrize("stops", [True, False])
def test_one_that_stops_early_is_finished_and_one_that_raises_failed(
    sdk: Tracker, sqlite_uri: str, stops: bool
) -> None:
    def fails(env: Any) -> None:
        if env.iteration == 3:
            raise ValueError("it diverges")

    def worse(predicted: Any, data: Any) -> tuple[str, float, bool]:
        return "worse", float(np.mean(predicted)) * 0 + next(numbers), False

    numbers = iter(range(1000))
    last = lightgbm.early_stopping(2, verbose=False) if stops else fails
    try:
        lightgbm.train(
            {**PARAMS, "metric": "None"},
            data := rows(),
            50,
            valid_sets=[lightgbm.Dataset(np.arange(8.0).reshape(4, 2), label=[0, 1, 0, 1], reference=data)],
            feval=worse,
            callbacks=[TailraceCallback("early", tracker=sdk), last],
        )
    except ValueError:
        assert not stops
    assert sdk.active_run() is None
    sdk.flush()
    store = eventually(lambda: (found := named(sqlite_uri, "early")).status != "RUNNING" and found)
    assert store.status == ("FINISHED" if stops else "FAILED")
    assert [step for step, _ in store.history("valid_0/worse")] == ([0, 1, 2] if stops else [0, 1, 2, 3])


def test_a_cross_validation_has_means_and_deviations(sdk: Tracker, sqlite_uri: str) -> None:
    lightgbm.cv(PARAMS, rows(), 3, nfold=2, callbacks=[TailraceCallback("cv", tracker=sdk)])
    found = {name: len(points) for name, points in named(sqlite_uri, "cv").metrics().items()}
    assert found == {"valid/binary_logloss": 3, "valid/binary_logloss_std": 3}


def test_an_estimator_takes_it_and_only_the_first_process_logs(
    sdk: Tracker, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    model = lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1)
    model.fit(x, y, eval_set=[(x, y)], callbacks=[TailraceCallback("first", tracker=sdk)])
    assert len(named(sqlite_uri, "first").history("training/binary_logloss")) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("tailrace.integrations.lightgbm.is_first", lambda: False)
    with sdk.start_run(run_name="second"):
        model.fit(x, y, eval_set=[(x, y)], callbacks=[TailraceCallback(tracker=sdk)])
    assert named(sqlite_uri, "second").metrics() == {}


def test_a_training_whose_run_is_asked_to_stop_ends_with_the_round(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run(run_name="asked") as run:
        run.__dict__["should_stop"] = lambda: True
        callbacks = [TailraceCallback(tracker=run)]
        booster = lightgbm.train(PARAMS, data := rows(), 50, valid_sets=[data], callbacks=callbacks)
    assert booster.current_iteration() == 1
    assert named(sqlite_uri, "asked").status == "FINISHED"
