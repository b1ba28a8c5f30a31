"""`fit`: what a run has of a trained estimator, and what becomes of mistakes. On real estimators and stores."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from scipy.sparse import coo_matrix
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import IsolationForest, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier, XGBRegressor, XGBRFClassifier
from xgboost.callback import TrainingCallback

from helpers.least_tracker import LeastTracker
from helpers.sdk_tools import Store, said
from tailrace import CallError, Tracker, TrackerLike
from tailrace.training import TrainingResult, fit

X, Y = load_breast_cancer(return_X_y=True, as_frame=True)
X, Y = X.iloc[:120, :6], Y.iloc[:120]
FLOWERS, KINDS = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[KINDS]
WORDS = np.where(Y == 1, "benign", "malignant")


def stored(uri: str, result: TrainingResult) -> Store:
    assert result.run_id is not None
    return Store(uri, result.run_id)


def table(uri: str, result: TrainingResult, path: str) -> list[dict[str, str]]:
    file = stored(uri, result).client.download_artifacts(str(result.run_id), path)
    return list(csv.DictReader(Path(file).read_text().splitlines()))


def test_a_fit_leaves_params_metrics_folds_importances_and_a_registered_model(shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    model = LogisticRegression(max_iter=2000, C=0.5)
    result = fit(model, X, Y, validation=0.25, cv=3, tracker=tracker, register="cancer", run_name="logistic")
    run = stored(uri, result)
    assert run.status == "FINISHED"
    assert run.run.info.run_name == "logistic"
    assert run.params["estimator"] == "LogisticRegression"
    assert (run.params["C"], run.params["max_iter"]) == ("0.5", "2000")
    assert (run.params["data.rows"], run.params["data.features"], run.params["data.validation_rows"]) == (
        "90",
        "6",
        "30",
    )
    metrics = run.metrics()
    folds = metrics["cv/accuracy"]
    assert [step for step, _ in folds] == [0, 1, 2]
    assert metrics["cv/accuracy_mean"] == [(0, pytest.approx(np.mean([value for _, value in folds])))]
    assert metrics["cv/accuracy_std"] == [(0, pytest.approx(np.std([value for _, value in folds])))]
    assert {"train/accuracy", "val/accuracy", "val/f1_score", "val/roc_auc", "fit_seconds"} <= metrics.keys()
    assert result["val_accuracy"] == metrics["val/accuracy"][0][1]
    rows = table(uri, result, "importances/importances.csv")
    assert {row["feature"] for row in rows} == set(X.columns)
    values = [float(row["importance"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert "importances/importances.png" in run.artifacts("importances")
    assert result.model_version == "1"
    version = run.client.get_model_version("cancer", "1")
    assert version.run_id == result.run_id
    loaded = tracker.load_model("cancer", version=1)
    assert (loaded.predict(X) == model.predict(X)).all()
    signature = tracker.load_model("cancer", version=1, pyfunc=True).metadata.signature
    assert signature.inputs.input_names() == list(X.columns)


@pytest.mark.parametrize("booster", [XGBClassifier, LGBMClassifier])
def test_each_round_of_a_booster_is_a_step(shared: tuple[Tracker, str], booster: Any) -> None:
    tracker, uri = shared
    quiet = {"verbose": -1} if booster is LGBMClassifier else {"eval_metric": ["logloss", "auc"]}
    model = booster(n_estimators=4, **quiet)
    run = stored(uri, fit(model, X, Y, validation=0.25, tracker=tracker))
    name = "binary_logloss" if booster is LGBMClassifier else "logloss"
    for part in ("train", "val"):
        rounds = run.history(f"{part}/{name}_round")
        assert [step for step, _ in rounds] == [0, 1, 2, 3]
    train = [value for _, value in run.history(f"train/{name}_round")]
    assert train == sorted(train, reverse=True)
    assert not model.get_params().get("callbacks"), "nothing of the tracking stays in the estimator"
    assert [path for path in run.artifacts("importances") if path.endswith(".csv")]


def test_rounds_are_logged_while_a_booster_trains() -> None:
    noted = LeastTracker()

    seen: list[int] = []

    class Look(TrainingCallback):  # type: ignore[misc]
        def before_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            seen.append(sum(1 for metrics, _ in noted.logged if "train/logloss_round" in metrics))
            return False

    fit(XGBClassifier(n_estimators=3, callbacks=[Look()]), X, Y, tracker=noted)
    assert seen == [0, 1, 2]


def test_a_booster_stops_early_by_the_validation_rows(shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    model = XGBClassifier(n_estimators=200, early_stopping_rounds=2, learning_rate=1.0)
    run = stored(uri, fit(model, X, Y, validation=0.25, cv=2, tracker=tracker, log_model=False))
    assert len(run.history("val/logloss_round")) == model.best_iteration + 3
    with pytest.raises(CallError, match="early_stopping_rounds=2, and no rows by which to stop"):
        fit(model, X, Y, tracker=tracker)


def test_labels_that_are_texts_are_measured_as_numbers_are(shared: tuple[Tracker, str]) -> None:
    tracker, _ = shared
    names = ("accuracy", "f1", "precision", "recall", "roc_auc", "average_precision", "log_loss", "brier_score")
    options: dict[str, Any] = {"metrics": names, "tracker": tracker, "log_model": False, "validation": (X, WORDS)}
    texts = fit(DecisionTreeClassifier(max_depth=2, random_state=0), X, WORDS, **options)
    options["validation"] = (X, 1 - Y)
    numbers = fit(DecisionTreeClassifier(max_depth=2, random_state=0), X, 1 - Y, **options)
    del options
    measured = {key: value for key, value in texts.items() if key != "fit_seconds"}
    assert measured == pytest.approx({key: numbers[key] for key in measured})
    assert {f"val_{name}" for name in names} <= measured.keys()


def test_regression_is_measured_by_what_is_usual_there_errors_positive(shared: tuple[Tracker, str]) -> None:
    tracker, _ = shared
    data, target = load_diabetes(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), Ridge())
    result = fit(pipeline, data, target, validation=0.2, tracker=tracker, log_model=False)
    assert 0 < result["val_r2"] < 1
    assert 40 < result["val_rmse"] < 80
    assert 30 < result["val_mae"] < result["val_rmse"]


def test_a_fit_within_an_active_run_joins_it(shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    with tracker.start_run(run_name="mine") as run:
        tracker.log(step=0, mine=1.0)
        result = fit(DecisionTreeClassifier(), X, Y, tracker=tracker, log_model=False)
        assert run.status == "RUNNING"
        assert result.run_id == run.run_id
    assert {"mine", "train/accuracy"} <= Store(uri, run.run_id).metrics().keys()


def test_a_fit_within_a_run_that_mlflow_has_begun_joins_it(shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run() as run:
        result = fit(DecisionTreeClassifier(), X, Y, tracker=tracker)
    assert result.run_id == run.info.run_id
    found = Store(uri, run.info.run_id)
    assert "train/accuracy" in found.metrics()
    assert "importances/importances.csv" in found.artifacts("importances")


def test_what_a_search_of_scikit_learn_finds_is_in_the_result(shared: tuple[Tracker, str]) -> None:
    tracker, _ = shared
    search = GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [1, 3]}, cv=2)
    result = fit(search, X, Y, tracker=tracker, log_model=False)
    assert result.best_params == search.best_params_


class Breaks(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Fails when it has begun."""

    def fit(self, X: Any, y: Any) -> Any:
        raise ZeroDivisionError("the loss is no number")

    def predict(self, X: Any) -> Any:
        raise AssertionError("it was never fitted")


def test_the_error_of_an_estimator_is_the_users_own_and_the_run_has_failed(shared: tuple[Tracker, str]) -> None:
    tracker, _ = shared
    with pytest.raises(ZeroDivisionError, match="the loss is no number") as caught:
        fit(Breaks(), X, Y, tracker=tracker, run_name="breaks")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    (run,) = [each for each in tracker.search_runs(output_format="list") if each.run_name == "breaks"]
    assert run.status == "FAILED"
    assert run.tags["error.type"] == "ZeroDivisionError"


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": np.empty((0, 3)), "y": []}, "X and y have no rows"),
        ({"y": [0, 1]}, "X has 120 rows and y has 2"),
        ({"y": [float("nan"), *Y[1:]]}, r"1 of 120 targets are missing \(the first is row 0\)"),
        ({"y": [*WORDS[:-1], None]}, r"1 of 120 targets are missing \(the first is row 119\)"),
        ({"y": np.zeros((120, 2))}, r"y has the shape \(120, 2\)"),
        ({"X": None}, "X is None"),
        ({"metrics": ["acuracy"]}, "there is no metric 'acuracy'; did you mean 'accuracy'?"),
        ({"metrics": ["rmse"]}, "metric 'rmse' is one of regression, and this is classification"),
        ({"estimator": DecisionTreeClassifier}, r"pass an estimator, DecisionTreeClassifier\(…\)"),
        ({"estimator": "tree"}, "str is no estimator"),
        ({"validation": 1.5}, "validation=1.5 is no share of the rows"),
        ({"validation": (X.iloc[:3, :2], Y[:3])}, r"validation: X has the shape \(3, 2\)"),
        ({"validation": (X[:3], Y[:2])}, "validation: X has 3 rows and y has 2"),
        ({"cv": 500}, "cv=500: "),
        ({"cv": "five"}, "cv='five': "),
        ({"cv": [([0, 1], [119])], "validation": 0.5}, "cv names row 119, and there are 60 rows to train on"),
        ({"tracker": object()}, r"tracker is object, which has no start_run\(\)"),
    ],
)
def test_what_can_never_work_is_one_clear_error_and_no_run(arguments: dict[str, Any], message: str) -> None:
    noted = LeastTracker()
    given: dict[str, Any] = {"estimator": DecisionTreeClassifier(), "X": X, "y": Y, "tracker": noted, **arguments}
    with pytest.raises(CallError, match=message):
        fit(given.pop("estimator"), given.pop("X"), given.pop("y"), **given)
    assert noted.started == []


def test_a_metric_that_needs_probabilities_is_refused_for_a_model_without_and_no_default_of_it() -> None:
    noted = LeastTracker()

    class Plain(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        def fit(self, X: Any, y: Any) -> Any:
            self.classes_ = np.unique(y)
            return self

        def predict(self, X: Any) -> Any:
            return np.full(len(X), self.classes_[0])

    with pytest.raises(CallError, match="metric 'roc_auc' needs predict_proba or decision_function"):
        fit(Plain(), X, Y, metrics=["roc_auc"], tracker=noted)
    result = fit(Plain(), X, Y, tracker=noted)
    assert result.keys() == {"train_accuracy", "train_f1_score", "fit_seconds"}


def test_a_metric_that_is_not_defined_for_the_rows_is_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = Y[Y == 0]
    result = fit(DecisionTreeClassifier(), X, Y, validation=(X[Y == 0], one), tracker=LeastTracker(), log_model=False)
    assert "val_accuracy" in result
    assert "val_roc_auc" not in result
    assert any("metric 'roc_auc' is left out for the val rows" in line for line in said(caplog))


# -- another tracker ---------------------------------------------------------------------------------------------------


def test_any_tracker_will_do_and_what_it_lacks_is_left_out_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "tailrace")
    noted = LeastTracker()
    assert isinstance(noted, TrackerLike)
    result = fit(DecisionTreeClassifier(random_state=0), X, Y, validation=0.2, cv=2, tracker=noted)
    assert (noted.started, noted.ended) == (["DecisionTreeClassifier"], ["FINISHED"])
    assert result.run_id is None
    assert result.model_version is None
    assert noted.figures == ["importances/importances.png"]
    assert [step for metrics, step in noted.logged if "cv/accuracy" in metrics] == [0, 1]
    assert sorted(said(caplog)) == [
        "tailrace: LeastTracker has no log_dataframe(): tables are left out",
        "tailrace: LeastTracker has no log_model(): the model is left out",
    ]


def test_weights_go_with_their_rows_into_the_split_and_the_folds() -> None:
    seen: list[tuple[int, float]] = []

    class Weighted(DecisionTreeClassifier):  # type: ignore[misc]
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            seen.append((len(X), float(np.abs(sample_weight - np.asarray(y)).max())))
            return super().fit(X, y, sample_weight)

    fit(
        Weighted(),
        X,
        Y,
        validation=0.25,
        cv=2,
        tracker=LeastTracker(),
        fit_params={"sample_weight": Y.to_numpy().astype(float)},
    )
    assert [count for count, _ in seen] == [45, 45, 90]
    assert [difference for _, difference in seen] == [0, 0, 0]


def test_a_result_can_be_json() -> None:
    result = fit(DecisionTreeClassifier(), X, Y, tracker=LeastTracker())
    assert json.loads(json.dumps(dict(result))) == dict(result)


# -- estimators of all kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "targets", "metrics"),
    [
        (SVC(), KINDS, {"accuracy", "f1_score", "roc_auc"}),
        (LGBMClassifier(n_estimators=2, verbose=-1), NAMES, {"accuracy", "f1_score", "roc_auc"}),
        (XGBRFClassifier(n_estimators=2), KINDS, {"accuracy", "f1_score", "roc_auc"}),
        (StackingClassifier([("tree", DecisionTreeClassifier())], cv=2), NAMES, {"accuracy", "f1_score", "roc_auc"}),
        (VotingClassifier([("tree", DecisionTreeClassifier())]), NAMES, {"accuracy", "f1_score"}),
        (KMeans(3, n_init=1), KINDS, {"accuracy", "f1_score"}),
        (IsolationForest(n_estimators=5), np.where(KINDS == 0, -1, 1), {"accuracy", "f1_score", "roc_auc"}),
        (make_pipeline(FunctionTransformer(np.log1p), Ridge()), KINDS + 0.5, {"r2", "rmse", "mae"}),
        (XGBRegressor(n_estimators=2, booster="gblinear"), KINDS + 0.5, {"r2", "rmse", "mae"}),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_estimators_of_all_kinds_are_measured_by_what_they_have(model: Any, targets: Any, metrics: set[str]) -> None:
    noted = LeastTracker()
    result = fit(model, FLOWERS, targets, validation=0.3, tracker=noted)
    assert {key.removeprefix("val_") for key in result if key.startswith("val_")} == metrics
    assert noted.figures == ["importances/importances.png"]


@pytest.mark.parametrize(
    "inputs", [FLOWERS.tolist(), coo_matrix(FLOWERS), FLOWERS.astype(np.float32)], ids=["lists", "sparse", "floats"]
)
def test_inputs_may_be_lists_or_sparse(inputs: Any) -> None:
    result = fit(KNeighborsClassifier(), inputs, list(NAMES), validation=0.3, cv=2, tracker=LeastTracker())
    assert result["val_accuracy"] > 0.9


def test_a_metric_that_a_fitted_model_turns_out_not_to_have_costs_nothing_but_itself(
    shared: tuple[Tracker, str],
) -> None:
    """Whether this class has probabilities is seen when it is fitted; importances are then those of another metric."""
    tracker, uri = shared
    for metrics in (["log_loss", "accuracy"], ["log_loss"]):
        result = fit(SVC(), FLOWERS, KINDS, metrics=metrics, tracker=tracker)
        run = stored(uri, result)
        assert run.status == "FINISHED"
        assert ("train_accuracy" in result, "train_log_loss" in result) == ("accuracy" in metrics, False)
        assert any("importances" in path for path in run.artifacts()) is ("accuracy" in metrics)


def test_categories_of_pandas_are_texts_in_the_signature_where_the_model_takes_these(
    shared: tuple[Tracker, str],
) -> None:
    tracker, _ = shared
    frame = X.assign(ward=pd.Categorical(np.where(np.arange(len(X)) % 2, "east", "west")))
    encoded = make_column_transformer((OneHotEncoder(), ["ward"]), remainder="passthrough")
    fit(make_pipeline(encoded, DecisionTreeClassifier()), frame, Y, tracker=tracker, register="wards")
    loaded = tracker.load_model("models:/wards/1", pyfunc=True)
    assert loaded.metadata.signature.inputs.input_types()[-1].name == "string"
    assert len(loaded.predict(frame.astype({"ward": str}))) == len(frame)
    booster = LGBMClassifier(n_estimators=2, verbose=-1)  # takes categories, and no texts
    assert fit(booster, frame, Y, tracker=tracker, register="wards").model_version == "2"
