"""Folds are logged as they are done, and summed up."""

from __future__ import annotations

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from tailrace.training.estimators.cross_validation import cross_validate
from tailrace.training.estimators.plan import planned


def test_each_fold_is_logged_by_itself_and_the_estimator_stays_unfitted() -> None:
    model = DecisionTreeClassifier(max_depth=1, random_state=0)
    X, y = np.arange(12.0)[:, None], np.arange(12) % 2
    plan = planned(model, X, y, validation=None, cv=3, metrics=["accuracy"], fit_params=None, seed=0)
    logged: list[tuple[dict[str, float], int]] = []
    summary = cross_validate(plan, model, lambda metrics, step: logged.append((dict(metrics), step)))
    folds = [metrics["cv/accuracy"] for metrics, _ in logged[:-1]]
    assert [step for _, step in logged] == [0, 1, 2, 0]
    assert summary == {"cv/accuracy_mean": np.mean(folds), "cv/accuracy_std": np.std(folds)} == logged[-1][0]
    assert not hasattr(model, "tree_")
