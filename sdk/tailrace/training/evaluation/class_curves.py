"""One class against the others: ROC, precision-recall and calibration curves, as tables and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from sklearn.calibration import CalibrationDisplay, calibration_curve
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay, precision_recall_curve, roc_curve

from tailrace.training.measures.figures import new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace.training.measures.predictions import Predictions

__all__ = ["ClassScores", "calibration", "precision_recall", "roc", "scored_classes"]

Columns = dict[str, list[Any]]
_MOST_CLASSES: Final = 10
_MOST_POINTS: Final = 500
_BINS: Final = 10


class ClassScores(NamedTuple):
    """One class against the others.

    Attributes:
        label: The class.
        true: Whether a row is of it, shape (rows,).
        scores: Larger for what is likelier of it, shape (rows,).
    """

    label: str
    true: Any
    scores: Any


def scored_classes(predictions: Predictions) -> list[ClassScores]:
    """The classes whose curves can be drawn: of two the second, of more the ten with the most rows.

    A class without rows, or one that has all of them, has no curve.
    """
    scores = predictions.class_scores
    if scores is None:
        return []
    y = np.asarray(predictions.rows.y)
    classes = list(enumerate(predictions.classes))
    chosen = classes[1:] if len(classes) == 2 else classes
    found = [ClassScores(str(label), y == label, scores[:, at]) for at, label in chosen]
    found = [each for each in found if 0 < np.count_nonzero(each.true) < len(y)]
    return sorted(found, key=lambda each: -np.count_nonzero(each.true))[:_MOST_CLASSES]


def roc(classes: Sequence[ClassScores]) -> tuple[Columns, Any]:
    """Of each threshold the false and the true positives, as a table and a figure."""
    columns: Columns = {"class": [], "false_positive_rate": [], "true_positive_rate": [], "threshold": []}
    for each in classes:
        _extend(columns, each.label, roc_curve(each.true, each.scores))
    return columns, _drawn(RocCurveDisplay, classes, "ROC")


def precision_recall(classes: Sequence[ClassScores]) -> tuple[Columns, Any]:
    """Of each threshold precision and recall, as a table and a figure."""
    columns: Columns = {"class": [], "precision": [], "recall": [], "threshold": []}
    for each in classes:
        precision, recall, threshold = precision_recall_curve(each.true, each.scores)
        _extend(columns, each.label, (precision, recall, np.append(threshold, np.inf)))
    return columns, _drawn(PrecisionRecallDisplay, classes, "Precision and recall")


def calibration(classes: Sequence[ClassScores]) -> tuple[Columns, Any]:
    """How often rows of a predicted probability are of the class, as a table and a figure."""
    columns: Columns = {"class": [], "predicted_probability": [], "share_of_the_class": []}
    for each in classes:
        share, predicted = calibration_curve(each.true, each.scores, n_bins=_BINS)
        _extend(columns, each.label, (predicted, share))
    return columns, _drawn(CalibrationDisplay, classes, "Calibration", n_bins=_BINS)


def _extend(columns: Columns, label: str, curves: Sequence[Any]) -> None:
    """Adds a class's curves, thinned out where they have more points than anybody looks at."""
    count = len(curves[0])
    at = np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(int))
    first, *others = columns
    columns[first] += [label] * len(at)
    for name, values in zip(others, curves, strict=True):
        columns[name] += [float(value) for value in np.asarray(values)[at]]


def _drawn(display: Any, classes: Sequence[ClassScores], title: str, **options: Any) -> Any:
    figure = new_figure(7, 6)
    if figure is None:
        return None
    axes = figure.subplots()
    for each in classes:
        display.from_predictions(each.true, each.scores, ax=axes, name=each.label, **options)
    axes.set_title(title)
    figure.tight_layout()
    return figure
