"""What a regression is wrong by, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sklearn.metrics import PredictionErrorDisplay

from tailrace.training.measures.figures import new_figure

if TYPE_CHECKING:
    from tailrace.training.measures.predictions import Predictions

__all__ = ["draw_residuals", "residuals"]

_MOST_ROWS: Final = 10_000
_MOST_POINTS: Final = 1000


def residuals(predictions: Predictions) -> dict[str, list[float]]:
    """Actual and predicted numbers and their difference: of ten thousand rows at most, evenly from all of them."""
    count = predictions.rows.count
    at = np.unique(np.linspace(0, count - 1, min(count, _MOST_ROWS)).astype(int))
    actual = np.asarray(predictions.rows.y, dtype=float)[at]
    predicted = np.asarray(predictions.values, dtype=float)[at]
    return {
        "row": [int(each) for each in at],
        "actual": actual.tolist(),
        "predicted": predicted.tolist(),
        "residual": (actual - predicted).tolist(),
    }


def draw_residuals(predictions: Predictions) -> Any:
    """Actual against predicted numbers, and what they differ by; None without matplotlib."""
    figure = new_figure(11, 5)
    if figure is None:
        return None
    kinds = ("actual_vs_predicted", "residual_vs_predicted")
    for kind, axes in zip(kinds, figure.subplots(1, 2), strict=True):
        PredictionErrorDisplay.from_predictions(
            np.asarray(predictions.rows.y, dtype=float),
            np.asarray(predictions.values, dtype=float),
            kind=kind,
            subsample=_MOST_POINTS,
            random_state=0,
            ax=axes,
        )
    figure.tight_layout()
    return figure
