"""Parameters that are searched for before an estimator is fitted: runs of trials, the best of them, and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from helpers.least_tracker import LeastTracker
from helpers.sdk_tools import Store
from tailrace import CallError, SettingsError, Tracker
from tailrace.training import fit, train_from_config

FRAME = load_breast_cancer(as_frame=True).frame.iloc[:120, -7:]
X, Y = FRAME.drop(columns="target"), FRAME["target"]
DEPTHS = {"max_depth": {"type": "int", "low": 1, "high": 4}}


@pytest.mark.slow
def test_a_search_leaves_a_run_for_each_trial_and_a_fit_with_the_best_parameters(shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    model = DecisionTreeClassifier(random_state=0)
    options = {"search_space": DEPTHS, "n_trials": 3, "cv_folds": 2}
    result = fit(
        model, X, Y, validation=0.25, metrics=("f1_macro", "accuracy"), tracker=tracker, hpo=options,
        run_name="searched", log_model=False,
    )  # fmt: skip
    assert model.max_depth == result.best_params["max_depth"]
    assert len(result.child_runs) == 3
    parent = Store(uri, str(result.parent_run_id))
    assert parent.run.info.run_name == "searched"
    assert parent.metrics()["total_trials"][-1][1] == 3
    values = {}
    for run_id in result.child_runs:
        trial = Store(uri, run_id)
        assert trial.tags["mlflow.parentRunId"] == result.parent_run_id
        folds = [value for _, value in trial.history("cv/f1_macro")]
        assert [step for step, _ in trial.history("cv/f1_macro")] == [0, 1]
        values[trial.params["hpo/max_depth"]] = trial.history("trial/val_f1_macro")[0][1]
        assert values[trial.params["hpo/max_depth"]] == pytest.approx(np.mean(folds))
    assert parent.metrics()["best_val_f1_macro"][-1][1] == max(values.values())
    assert values[str(model.max_depth)] == max(values.values())
    final = Store(uri, str(result.run_id))
    assert final.tags["mlflow.parentRunId"] == result.parent_run_id
    assert final.params["max_depth"] == str(model.max_depth)
    assert {"val/f1_macro", "train/f1_macro"} <= final.metrics().keys()
    assert "importances/importances.csv" in final.artifacts("importances")


def test_an_error_gets_smaller_by_the_validation_rows_and_each_round_of_a_trial_is_logged(
    shared: tuple[Tracker, str],
) -> None:
    tracker, uri = shared
    with tracker.start_run() as run:
        result = fit(
            XGBClassifier(n_estimators=3), X, Y, validation=0.25, metrics="log_loss", tracker=tracker, log_model=False,
            hpo={"search_space": DEPTHS, "n_trials": 2, "metric": "val_log_loss"},
        )  # fmt: skip
        assert tracker.active_run() is run
    trials = [Store(uri, run_id) for run_id in result.child_runs]
    assert [len(trial.history("val/logloss_round")) for trial in trials] == [3, 3]
    best = min(trial.history("val/log_loss")[0][1] for trial in trials)
    assert result["val_log_loss"] == pytest.approx(best)
    assert Store(uri, str(result.parent_run_id)).tags["mlflow.parentRunId"] == run.run_id
    assert Store(uri, str(result.run_id)).tags["mlflow.parentRunId"] == result.parent_run_id


def test_parameters_of_a_step_in_a_pipeline_are_searched_on_any_tracker() -> None:
    noted = LeastTracker()
    pipeline = make_pipeline(StandardScaler(), SVC())
    space = {"svc__C": {"type": "float", "low": 0.1, "high": 10.0, "log": True}}
    result = fit(pipeline, X, Y, metrics="accuracy", tracker=noted, hpo={"search_space": space, "n_trials": 2})
    assert pipeline.get_params()["svc__C"] == result.best_params["svc__C"]
    assert noted.started == ["Pipeline", "trial_0000", "trial_0001", "Pipeline"]
    assert set(noted.ended) == {"FINISHED"}


def test_a_file_says_what_is_searched(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "cancer.csv", index=False)
    content = {
        "training": {
            "model": {"framework": "sklearn", "model_type": "decision_tree", "task_type": "classification"},
            "data": "cancer.csv",
            "target_column": "target",
            "metrics": ["accuracy"],
        },
        "hyperparameter_optimization": {
            "enabled": True,
            "method": "optuna",
            "n_trials": 2,
            "cv_folds": 2,
            "direction": "maximize",
            "search_space": DEPTHS,
        },
    }
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(content))
    noted = LeastTracker()
    assert train_from_config(path, tracker=noted).best_params.keys() == {"max_depth"}
    assert len(noted.started) == 4
    off = {"hyperparameter_optimization.enabled": False}
    assert train_from_config(path, overrides=off, tracker=noted).best_params == {}
    assert len(noted.started) == 5
    wrong = {"hyperparameter_optimization.n_trails": 3}
    with pytest.raises(SettingsError, match=r"search.yaml: hyperparameter_optimization.n_trails is no .*'n_trials'"):
        train_from_config(path, overrides=wrong, tracker=noted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "hpo.search_space is missing"),
        ({"n_trails": 3}, "hpo.n_trails is no key there; did you mean 'n_trials'?"),
        ({"n_trials": "three"}, "hpo.n_trials: expected `int`, got `str`"),
        (
            {"search_space": {"max_deph": DEPTHS["max_depth"]}},
            "max_deph is no parameter of DecisionTreeClassifier; did",
        ),
        ({"search_space": {"max_depth": {"type": "integer", "low": 1, "high": 2}}}, "max_depth"),
        ({"metric": "f1"}, "hpo.metric is 'f1', which is not measured"),
        ({"direction": "minimize"}, "hpo.direction is minimize, and of accuracy it should be maximize"),
        ({"direction": "up"}, "hpo.direction: invalid enum value 'up'"),
        ({"method": "grid"}, "hpo.method: invalid enum value 'grid'"),
        ({"cv_folds": 500}, "cv=500"),
    ],
)
def test_a_mistake_is_one_clear_error_before_anything_starts(options: dict[str, Any], message: str) -> None:
    noted = LeastTracker()
    given = options if options == {} else {"search_space": DEPTHS, **options}
    with pytest.raises((SettingsError, CallError), match=message):
        fit(DecisionTreeClassifier(), X, Y, metrics="accuracy", tracker=noted, hpo=given)
    assert noted.started == []
