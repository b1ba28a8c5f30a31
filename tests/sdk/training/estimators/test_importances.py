"""Importances: the model's own, or by shuffling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from helpers.sdk_tools import said
from tailrace.training.estimators.importances import draw_importances, importances_of
from tailrace.training.measures.input_data import Rows, checked_rows

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3))
ROWS = checked_rows(X, 5 * X[:, 1] + X[:, 2])


def loss(model: Any, rows: Rows) -> float:
    return float(np.mean((model.predict(rows.X) - rows.y) ** 2))


@pytest.mark.parametrize(
    "model", [LinearRegression(), KNeighborsRegressor(), make_pipeline(StandardScaler(), LinearRegression())]
)
def test_the_most_important_feature_comes_first(model: Any) -> None:
    found = importances_of(model.fit(ROWS.X, ROWS.y), ROWS, loss, 0)
    assert found is not None
    assert found.kind == ("permutation" if isinstance(model, KNeighborsRegressor) else "coef_")
    assert found.features[0] == "x1"
    assert list(found.values) == sorted(found.values, reverse=True)
    assert draw_importances(found) is not None


def test_what_a_step_makes_of_the_features_has_its_names() -> None:
    model = make_pipeline(PolynomialFeatures(2, include_bias=False), LinearRegression()).fit(ROWS.X, ROWS.y)
    found = importances_of(model, ROWS, loss)
    assert found is not None
    assert set(found.features) > {"x0", "x1", "x0 x1", "x2^2"}


def test_coefficients_of_several_classes_are_one_figure_a_feature() -> None:
    y = np.digitize(X[:, 2], [-0.5, 0.5])
    found = importances_of(LogisticRegression().fit(X, y), checked_rows(X, y), loss)
    assert found is not None
    assert found.features[0] == "x2"
    assert len(found.values) == 3


def test_very_many_features_are_not_shuffled(caplog: pytest.LogCaptureFixture) -> None:
    wide = checked_rows(np.zeros((5, 101)), np.arange(5.0))
    assert importances_of(DummyRegressor().fit(wide.X, wide.y), wide, loss) is None
    assert any("shuffling each of 101 features takes long" in line for line in said(caplog))
