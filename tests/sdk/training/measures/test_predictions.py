"""What a model says, asked once, and what can be measured of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC

from tailrace import CallError
from tailrace.training.measures.input_data import checked_rows
from tailrace.training.measures.metric_names import metrics_of
from tailrace.training.measures.predictions import can_measure, predict, scores, task_of

X = np.random.default_rng(0).normal(size=(40, 2))
WORDS = np.where(X[:, 0] > 0, "up", "down")


class Counting(LogisticRegression):  # type: ignore[misc]
    asked = 0

    def predict_proba(self, X: Any) -> Any:
        self.asked += 1
        return super().predict_proba(X)


def test_a_model_is_asked_once_for_all_metrics() -> None:
    model = Counting().fit(X, WORDS)
    found = predict(model, checked_rows(X, WORDS), "classification")
    names = ["accuracy", "f1", "roc_auc", "log_loss", "average_precision", "brier_score"]
    assert scores(found, metrics_of(names)).keys() == set(names)
    assert model.asked == 1


def test_the_task_is_what_the_model_says_or_what_the_targets_look_like() -> None:
    assert task_of(Ridge(), [0, 1]) == "regression"
    assert task_of(SVC(), [0.5, 1.5]) == "classification"
    assert task_of(object(), [0.5, 1.7]) == "regression"
    assert task_of(object(), ["a", "b"]) == "classification"


def test_scores_of_pairs_of_classes_are_no_scores_of_classes() -> None:
    y = np.digitize(X[:, 0], [-0.7, 0.0, 0.7])
    pairs = predict(SVC(decision_function_shape="ovo").fit(X, y), checked_rows(X, y), "classification")
    assert pairs.class_scores is None
    each = predict(SVC().fit(X, y), checked_rows(X, y), "classification")
    assert each.class_scores.shape == (40, 4)


def test_why_a_metric_cannot_be_had() -> None:
    accuracy, auc, loss, rmse = metrics_of(["accuracy", "roc_auc", "log_loss", "rmse"])
    assert can_measure(accuracy, Ridge(), "classification") is None
    assert can_measure(auc, SVC(), "classification") is None
    assert "needs predict_proba" in str(can_measure(loss, object(), "classification"))
    assert "is one of regression" in str(can_measure(rmse, SVC(), "classification"))
    with pytest.raises(CallError, match=r"has no predict\(\)"):
        predict(object(), checked_rows(X, WORDS), "classification")
