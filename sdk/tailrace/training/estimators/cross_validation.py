"""Each fold of a cross-validation, and what they come to together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from tailrace.training.estimators.boosting_rounds import round_logging
from tailrace.training.measures.predictions import predict, scores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailrace.training.estimators.plan import Plan

__all__ = ["cross_validate"]


def cross_validate(plan: Plan, estimator: Any, log: Callable[[Mapping[str, float], int], None]) -> dict[str, float]:
    """Fits a new estimator for each fold, and measures it on the rest of the rows.

    Args:
        plan: The rows, the folds, and what is measured.
        estimator: What each fold has a copy of.
        log: Takes the metrics of each fold as soon as they are there (`cv/accuracy`), the fold as step; at last the
            summary.

    Returns:
        `cv/accuracy_mean` and `cv/accuracy_std` of each metric.

    Raises:
        Exception: Whatever the estimator raises.
    """
    found: dict[str, list[float]] = {}
    for number, (train, test, fit_params) in enumerate(plan.splits()):
        model = clone(estimator)
        with round_logging(model, train, test, None) as arguments:
            model.fit(train.X, train.y, **{**fit_params, **arguments})
        measured = scores(predict(model, test, plan.task), plan.metrics, f" in fold {number}")
        log({f"cv/{name}": value for name, value in measured.items()}, number)
        for name, value in measured.items():
            found.setdefault(name, []).append(value)
    summary = {f"cv/{name}_mean": float(np.mean(values)) for name, values in found.items()}
    summary |= {f"cv/{name}_std": float(np.std(values)) for name, values in found.items()}
    log(summary, 0)
    return summary
