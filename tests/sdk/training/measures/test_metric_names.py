"""Metrics by name: all of scikit-learn's, and those that people know."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer_names, roc_auc_score

from tailrace import CallError
from tailrace.training.measures.metric_names import metrics_of

X = np.random.default_rng(0).normal(size=(60, 2))


def test_every_name_of_scikit_learn_is_one_and_so_is_that_of_an_error_without_its_sign() -> None:
    names = get_scorer_names()
    assert [metric.scorer for metric in metrics_of(names)] == names
    assert all(metric.greater_is_better for metric in metrics_of(names))
    errors = [name.removeprefix("neg_") for name in names if name.startswith("neg_")]
    assert not any(metric.greater_is_better for metric in metrics_of(errors))


def test_short_names_are_of_the_task_that_they_measure() -> None:
    found = {metric.name: metric.task for metric in metrics_of(["rmse", "mae", "r2", "auc", "f1_score", "mcc"])}
    assert [name for name, task in found.items() if task == "regression"] == ["rmse", "mae", "r2"]


def test_roc_auc_is_the_mean_over_the_classes_that_have_rows() -> None:
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    model = LogisticRegression().fit(X, y)
    (metric,) = metrics_of("roc_auc")
    assert metric.of(model, X, y) == pytest.approx(roc_auc_score(y, model.predict_proba(X), multi_class="ovr"))
    some = y != 2
    each = [roc_auc_score(y[some] == label, model.predict_proba(X[some])[:, label]) for label in (0, 1)]
    assert metric.of(model, X[some], y[some]) == pytest.approx(np.mean(each))
    with pytest.raises(ValueError, match=r"only one class has rows"):
        metric.of(model, X[y == 0], y[y == 0])


def test_a_name_that_nobody_knows_and_what_is_no_scorer() -> None:
    with pytest.raises(CallError, match=r"there is no metric 'f1_makro'; did you mean 'f1_macro'?"):
        metrics_of(["f1_makro"])
    with pytest.raises(CallError, match=r"metric 'mine' is no scorer"):
        metrics_of({"mine": "accuracy"})
