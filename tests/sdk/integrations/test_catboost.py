"""`integrations/catboost`: what CatBoost measures, in MLflow."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.sdk_tools import named
from tailrace import Tracker
from tailrace.integrations.catboost import TailraceCallback

pytestmark = pytest.mark.services
catboost = pytest.importorskip("catboost")


def model(folder: Path, **given: Any) -> Any:
    return catboost.CatBoostClassifier(
        iterations=4, depth=2, verbose=False, thread_count=1, train_dir=str(folder), **given
    )


X, Y = np.arange(80.0).reshape(40, 2), np.arange(40) % 2


def test_each_round_is_a_step_of_the_active_run(sdk: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    fitted = model(tmp_path)
    with sdk.start_run(run_name="outer"):
        fitted.fit(X, Y, eval_set=(X, Y), callbacks=[TailraceCallback(tracker=sdk)])
    expected = {
        f"{data}/{metric}": [(n, pytest.approx(value)) for n, value in enumerate(values, 1)]
        for data, metrics in fitted.get_evals_result().items()
        for metric, values in metrics.items()
    }
    assert len(expected) == 2
    assert named(sqlite_uri, "outer").metrics() == expected


def test_a_run_of_its_own_ends_with_it_and_a_second_fit_is_a_second_run(
    sdk: Tracker, sqlite_uri: str, tmp_path: Path
) -> None:
    callback = TailraceCallback("own", tracker=sdk, tags={"fit": "first"})
    for _ in range(2):
        model(tmp_path).fit(X, Y, callbacks=[callback])
    del callback
    gc.collect()
    assert sdk.active_run() is None
    sdk.flush()
    from mlflow import MlflowClient

    found = MlflowClient(sqlite_uri).search_runs(["0"])
    assert [run.info.run_name for run in found] == ["own", "own"]
