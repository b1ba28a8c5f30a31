"""Which classes are taken for which, and how well each is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from tailrace.training.measures.figures import new_figure

if TYPE_CHECKING:
    from tailrace.training.measures.predictions import Predictions

__all__ = ["confusion", "draw_confusion", "labels_of", "per_class"]

_MOST_NUMBERS: Final = 20
"""Classes up to which each cell of the picture has its number."""


def labels_of(predictions: Predictions) -> Any:
    """Every class that there is: those that the model knows, and those that the rows have besides, sorted."""
    return np.unique(np.concatenate([predictions.classes, np.unique(np.asarray(predictions.rows.y))]))


def per_class(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Precision, recall, F1, ROC AUC and the number of rows of each class; what is not defined is left out."""
    y, labels = np.asarray(predictions.rows.y), labels_of(predictions)
    measured = precision_recall_fscore_support(y, predictions.values, labels=labels, zero_division=0)
    scores = predictions.class_scores
    known = [] if scores is None else list(predictions.classes)
    table: dict[str, dict[str, float]] = {}
    for label, precision, recall, f1, rows in zip(labels, *measured, strict=True):
        table[str(label)] = {"precision": float(precision), "recall": float(recall), "f1": float(f1), "rows": int(rows)}
        if label in known and 0 < rows < len(y):
            table[str(label)]["roc_auc"] = float(roc_auc_score(y == label, scores[:, known.index(label)]))
    return table


def confusion(predictions: Predictions) -> tuple[Any, Any]:
    """How many rows of a class (down) are taken for which (across): labels, and counts of shape (classes, classes)."""
    labels = labels_of(predictions)
    return labels, confusion_matrix(np.asarray(predictions.rows.y), predictions.values, labels=labels)


def draw_confusion(labels: Any, counts: Any) -> Any:
    """The counts as a picture; None without matplotlib."""
    size = min(12.0, 4 + 0.4 * len(labels))
    figure = new_figure(size, size)
    if figure is None:
        return None
    display = ConfusionMatrixDisplay(counts, display_labels=labels)
    few = len(labels) <= _MOST_NUMBERS
    display.plot(ax=figure.subplots(), include_values=few, colorbar=not few, xticks_rotation=45, cmap="Blues")
    figure.tight_layout()
    return figure
