"""What is found to be wrong before a fit begins, and what goes with which rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tailrace import CallError
from tailrace.training.estimators.plan import Plan, params_of, planned

X, Y = np.arange(24.0).reshape(12, 2), np.arange(12) % 2


def plan(**changed: object) -> Plan:
    given = {"validation": None, "cv": None, "metrics": None, "fit_params": None, "seed": 0, **changed}
    estimator = given.pop("estimator", LogisticRegression(C=0.5))
    return planned(estimator, X, Y, **given)  # type: ignore[arg-type]


def test_params_are_those_that_are_set_and_small() -> None:
    assert params_of(plan(validation=0.25))["data"] == {"rows": 9, "features": 2, "validation_rows": 3}
    params = params_of(plan(estimator=make_pipeline(StandardScaler(), LogisticRegression(C=0.5))))
    assert params["estimator"] == "Pipeline"
    assert params["logisticregression"] == "LogisticRegression"
    assert params["logisticregression__C"] == 0.5
    assert "memory" not in params


def test_what_has_one_value_a_row_goes_with_its_rows() -> None:
    found = plan(validation=0.25, cv=3, fit_params={"sample_weight": X[:, 0].tolist(), "other": "all"})
    assert found.fit_params["other"] == "all"
    assert found.fit_params["sample_weight"].tolist() == found.rows.X[:, 0].tolist()
    for train, _, params in found.splits():
        assert params["sample_weight"].tolist() == train.X[:, 0].tolist()


def test_folds_of_rows_that_were_held_back_are_an_error() -> None:
    with pytest.raises(CallError, match="cv names row 11, and there are 9 rows to train on"):
        plan(validation=0.25, cv=[([0, 1], [11])])
    with pytest.raises(CallError, match="validation has 3 parts"):
        plan(validation=(X, Y, Y))


def test_folds_by_groups_are_passed_as_their_pairs_and_the_error_says_how() -> None:
    with pytest.raises(
        CallError, match=r"should not be None: pass its pairs, cv=list\(splitter.split\(X, y, groups\)\)"
    ):
        plan(cv=GroupKFold(3))
    found = plan(cv=list(GroupKFold(3).split(X, Y, np.arange(12) // 4)))
    assert [len(test.y) for _, test, _ in found.splits()] == [4, 4, 4]
