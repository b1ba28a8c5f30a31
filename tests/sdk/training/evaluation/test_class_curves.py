"""Curves of classes: which have one, and how long their tables are."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from tailrace.training.evaluation.class_curves import calibration, precision_recall, roc, scored_classes
from tailrace.training.measures.input_data import checked_rows
from tailrace.training.measures.predictions import Predictions

RANDOM = np.random.default_rng(0)


def predictions(y: np.ndarray, classes: int) -> Predictions:
    probabilities = RANDOM.dirichlet(np.ones(classes), len(y))
    rows = checked_rows(np.zeros((len(y), 1)), y)
    return Predictions("classification", rows, probabilities.argmax(1), np.arange(classes), probabilities, None)


def test_of_two_classes_the_second_has_a_curve_and_of_many_the_ten_with_the_most_rows() -> None:
    assert [each.label for each in scored_classes(predictions(np.arange(50) % 2, 2))] == ["1"]
    y = np.repeat(np.arange(12), np.arange(1, 13))
    assert [each.label for each in scored_classes(predictions(y, 13))] == [str(label) for label in range(11, 1, -1)]
    assert scored_classes(predictions(np.zeros(9, dtype=int), 2)) == []


def test_tables_have_the_curves_thinned_out() -> None:
    found = predictions(RANDOM.integers(0, 2, 5000), 2)
    classes = scored_classes(found)
    for curve in (roc, precision_recall, calibration):
        columns, figure = curve(classes)
        lengths = {len(column) for column in columns.values()}
        assert len(lengths) == 1
        assert 2 <= lengths.pop() <= 500
        assert figure is not None
    columns, _ = roc(classes)
    area = np.trapezoid(columns["true_positive_rate"], columns["false_positive_rate"])
    assert abs(area - roc_auc_score(found.rows.y, found.probabilities[:, 1])) < 0.01
