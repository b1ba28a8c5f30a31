"""`Evaluator`: what a run has of an evaluated model, in each shape that models and targets have."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    make_scorer,
    precision_score,
    roc_auc_score,
    root_mean_squared_error,
)
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from helpers.least_tracker import LeastTracker
from helpers.sdk_tools import Store, said
from tailrace import CallError, NotFound, Tracker
from tailrace.training import EvaluationResult, Evaluator, fit

X, Y = load_breast_cancer(return_X_y=True, as_frame=True)
X, Y = X.iloc[:150, :6], Y.iloc[:150]
WORDS = np.where(Y == 1, "benign", "malignant")
FLOWERS, KINDS = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[KINDS]


def table(uri: str, result: EvaluationResult, path: str) -> list[dict[str, str]]:
    assert result.run_id is not None
    file = Store(uri, result.run_id).client.download_artifacts(result.run_id, path)
    return list(csv.DictReader(Path(file).read_text().splitlines()))


def test_an_evaluation_of_two_classes_leaves_metrics_tables_and_figures(shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X[:100], WORDS[:100])
    result = Evaluator(tracker=tracker, name="test").evaluate(model, X[100:], WORDS[100:], run_name="evaluated")
    assert result.run_id is not None
    run = Store(uri, result.run_id)
    truth, found = WORDS[100:], model.predict(X[100:])
    assert result["accuracy"] == accuracy_score(truth, found)
    assert result["f1_score"] == f1_score(truth, found, pos_label="malignant")
    assert result["roc_auc"] == pytest.approx(roc_auc_score(truth, model.predict_proba(X[100:])[:, 1]))
    assert {key: points[0][1] for key, points in run.metrics().items()} == {
        f"test/{key}": value for key, value in result.items()
    }
    names = ("confusion_matrix", "roc", "precision_recall", "calibration")
    expected = [f"test/{name}.{kind}" for name in names for kind in ("csv", "png")]
    assert run.artifacts() == sorted([*expected, "test/per_class.csv"])
    assert run.run.info.run_name == "evaluated"
    rows = {row["class"]: row for row in table(uri, result, "test/per_class.csv")}
    assert rows.keys() == {"benign", "malignant"}
    assert float(rows["benign"]["precision"]) == pytest.approx(precision_score(truth, found, pos_label="benign"))
    assert int(rows["malignant"]["rows"]) == np.count_nonzero(truth == "malignant")
    confusion = table(uri, result, "test/confusion_matrix.csv")
    taken = [[int(row["predicted benign"]), int(row["predicted malignant"])] for row in confusion]
    assert sum(map(sum, taken)) == len(truth)
    assert taken[0][0] == np.count_nonzero((truth == "benign") & (found == "benign"))
    assert {row["class"] for row in table(uri, result, "test/roc.csv")} == {"malignant"}


def test_several_classes_with_one_missing_from_the_rows() -> None:
    model = LogisticRegression(max_iter=500).fit(FLOWERS, NAMES)
    some = NAMES != "virginica"
    noted = LeastTracker()
    result = Evaluator(("accuracy", "f1_score", "roc_auc", "log_loss"), tracker=noted).evaluate(
        model, FLOWERS[some], NAMES[some]
    )
    assert result.keys() == {"accuracy", "f1_score", "roc_auc", "log_loss"}
    assert result.per_class.keys() == {"setosa", "versicolor", "virginica"}
    assert result.per_class["virginica"]["rows"] == 0
    assert "roc_auc" not in result.per_class["virginica"]
    assert "roc_auc" in result.per_class["setosa"]
    assert "eval/roc.png" in noted.figures


def test_one_class_alone_has_no_curve_and_no_roc_auc(caplog: pytest.LogCaptureFixture) -> None:
    model = DecisionTreeClassifier().fit(X, Y)
    noted = LeastTracker()
    result = Evaluator(tracker=noted).evaluate(model, X[Y == 1], Y[Y == 1])
    assert result.keys() == {"accuracy", "f1_score"}
    assert noted.figures == ["eval/confusion_matrix.png"]
    assert any("metric 'roc_auc' is left out" in line for line in said(caplog))


def test_rows_of_a_class_that_the_model_has_never_seen_are_in_the_tables() -> None:
    two = NAMES != "virginica"
    model = LogisticRegression().fit(FLOWERS[two], NAMES[two])
    result = Evaluator(("accuracy",), tracker=LeastTracker()).evaluate(model, FLOWERS, NAMES)
    assert result.per_class["virginica"] == {"precision": 0, "recall": 0, "f1": 0, "rows": 50}
    assert result["accuracy"] == pytest.approx(2 / 3)


def test_a_model_without_probabilities_is_measured_by_what_it_decides_by() -> None:
    model = LinearSVC().fit(X, WORDS)
    noted = LeastTracker()
    result = Evaluator(tracker=noted).evaluate(model, X, WORDS)
    assert result["roc_auc"] == pytest.approx(roc_auc_score(WORDS, model.decision_function(X)))
    assert "eval/roc.png" in noted.figures
    assert "eval/calibration.png" not in noted.figures


class Answers:
    """Has `predict`, and nothing else."""

    def __init__(self, answers: Any) -> None:
        self.answers = answers

    def predict(self, X: Any) -> Any:
        return self.answers


def test_anything_with_predict_is_measured_by_what_its_answers_allow() -> None:
    noted = LeastTracker()
    result = Evaluator(tracker=noted).evaluate(Answers(list(KINDS)), FLOWERS, KINDS)
    assert dict(result) == {"accuracy": 1.0, "f1_score": 1.0}
    target = np.linspace(0.1, 5, 40)
    result = Evaluator(tracker=noted).evaluate(Answers((target + 1)[:, None]), np.zeros((40, 1)), target)
    assert result["rmse"] == pytest.approx(1)
    assert result["mae"] == pytest.approx(1)
    assert result.per_class == {}


def test_regression_leaves_residuals(shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    data, target = load_diabetes(return_X_y=True)
    model = Ridge().fit(data[:300], target[:300])
    result = Evaluator(tracker=tracker).evaluate(model, data[300:], target[300:])
    assert result["rmse"] == pytest.approx(root_mean_squared_error(target[300:], model.predict(data[300:])))
    rows = table(uri, result, "eval/residuals.csv")
    assert len(rows) == len(target) - 300
    assert float(rows[3]["residual"]) == pytest.approx(target[303] - model.predict(data[303:304])[0])
    assert Store(uri, str(result.run_id)).artifacts() == ["eval/residuals.csv", "eval/residuals.png"]


@pytest.mark.slow
def test_a_model_by_its_uri_is_evaluated_into_its_own_run_and_against_another(shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    options: dict[str, Any] = {"tracker": tracker, "metrics": ("accuracy",), "register": "judged"}
    weak = fit(DecisionTreeClassifier(max_depth=1, random_state=0), X[:100], Y[:100], **options)
    strong = fit(LogisticRegression(max_iter=3000), X[:100], Y[:100], **options)
    evaluator = Evaluator(("accuracy", "log_loss"), tracker=tracker)
    first = evaluator.evaluate("models:/judged/1", X[100:], Y[100:])
    assert first.run_id == weak.run_id
    assert first.comparison == ()
    second = evaluator.evaluate(f"runs:/{strong.run_id}/model", X[100:], Y[100:], baseline="models:/judged/1")
    assert second.run_id == strong.run_id
    run = Store(uri, str(strong.run_id))
    assert run.status == "FINISHED"
    assert {"train/accuracy", "eval/accuracy", "eval/accuracy_difference"} <= run.metrics().keys()
    found = {each.metric: each for each in second.comparison}
    assert found["log_loss"].verdict == "better"
    assert found["log_loss"].difference < 0
    assert found["accuracy"].difference == pytest.approx(second["accuracy"] - first["accuracy"])
    verdicts = {row["metric"]: row["verdict"] for row in table(uri, second, "eval/comparison.csv")}
    assert verdicts == {each.metric: each.verdict for each in second.comparison}
    against_run = evaluator.evaluate("models:/judged/2", X[100:], Y[100:], baseline=first.run_id)
    assert against_run.comparison == second.comparison
    with pytest.raises(CallError, match="has none of eval/r2: evaluate its model first"):
        Evaluator("r2", task="regression", tracker=tracker).evaluate(Ridge().fit(X, Y), X, Y, baseline=first.run_id)
    with pytest.raises(NotFound):
        evaluator.evaluate("models:/nobody/1", X, Y)


def test_an_evaluation_joins_the_active_run_or_goes_to_the_one_that_is_named(shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    model = DecisionTreeClassifier().fit(X, Y)
    evaluator = Evaluator(("accuracy",), tracker=tracker, figures=False)
    earlier = evaluator.evaluate(model, X, Y)
    with tracker.start_run() as run:
        assert evaluator.evaluate(model, X, Y).run_id == run.run_id
        named = Evaluator(("accuracy",), tracker=tracker, name="later", figures=False)
        assert named.evaluate(model, X, Y, run_id=earlier.run_id).run_id == earlier.run_id
        assert tracker.active_run() is run
    assert Store(uri, str(earlier.run_id)).metrics().keys() == {"eval/accuracy", "later/accuracy"}
    assert not [path for path in Store(uri, run.run_id).artifacts() if path.endswith(".png")]


def test_a_scorer_of_ones_own_is_measured() -> None:
    scorer = make_scorer(lambda truth, found: float(np.mean(truth != found)))
    result = Evaluator({"error_rate": scorer}, tracker=LeastTracker()).evaluate(Answers(1 - Y), X, Y)
    assert dict(result) == {"error_rate": 1.0}


@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (object(), Y, r"a model of type object has no predict\(\)"),
        (
            DecisionTreeClassifier().fit(X, Y),
            WORDS,
            "y has labels such as 'malignant', and the model predicts such as 0",
        ),
        (Answers([0, 1]), Y, r"predict\(\) gives 2 answers for 150 rows"),
        (Answers(np.zeros((150, 4))), Y, r"predict\(\) gives 4 columns"),
        (Answers(Y), Y[:3], "X has 150 rows and y has 3"),
        ("models:/digits/1", Y, r"LeastTracker has no load_model\(\)"),
    ],
)
def test_what_can_never_work_is_one_clear_error(model: Any, y: Any, message: str) -> None:
    noted = LeastTracker()
    with pytest.raises(CallError, match=message):
        Evaluator(tracker=noted).evaluate(model, X, y)
    assert noted.started == []


def test_metrics_that_cannot_be_are_refused() -> None:
    noted = LeastTracker()
    with pytest.raises(CallError, match=r"there is no metric 'f1score'; did you mean 'f1_score'\?"):
        Evaluator("f1score")
    with pytest.raises(CallError, match="'r2' is one of regression"):
        Evaluator("r2", tracker=noted).evaluate(Answers(Y), X, Y)
    with pytest.raises(CallError, match="'roc_auc' needs predict_proba or decision_function, which Answers has not"):
        Evaluator("roc_auc", tracker=noted).evaluate(Answers(Y), X, Y)
    with pytest.raises(CallError, match="task is 'ranking'"):
        Evaluator(task="ranking")  # type: ignore[arg-type]
    with pytest.raises(CallError, match=r"LeastTracker has no get_run_info\(\)"):
        Evaluator(tracker=noted).evaluate(Answers(Y), X, Y, baseline="earlier")
    assert noted.started == []


def test_tables_are_left_out_with_one_warning_where_a_tracker_has_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tailrace")
    Evaluator(tracker=LeastTracker()).evaluate(DecisionTreeClassifier().fit(X, Y), X, Y)
    assert said(caplog) == ["tailrace: LeastTracker has no log_dataframe(): tables are left out"]
