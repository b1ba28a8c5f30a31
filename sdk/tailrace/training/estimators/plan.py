"""What a fit is going to do: everything that can be wrong is found before a run is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from tailrace.training.estimators.boosting_rounds import check_early_stopping
from tailrace.training.measures.input_data import Rows, at_rows, checked_rows, feature_names, rows_at, split_indices
from tailrace.training.measures.metric_names import default_metrics, metrics_of
from tailrace.training.measures.predictions import can_measure, task_of
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tailrace.training.measures.metric_names import Metric, Task

__all__ = ["Plan", "folds_of", "params_of", "planned"]

_LONGEST_PARAM: Final = 500


class Plan(NamedTuple):
    """What is to be done.

    Attributes:
        estimator: To be fitted in place.
        task: What it is for.
        metrics: What is measured.
        rows: To train on.
        validation: To measure with, and to stop early by.
        folds: One of scikit-learn's splitters.
        fit_params: Passed to `fit`; what has one value a row belongs to `rows`.
        seed: Of what is left to chance.
    """

    estimator: Any
    task: Task
    metrics: Sequence[Metric]
    rows: Rows
    validation: Rows | None
    folds: Any
    fit_params: Mapping[str, Any]
    seed: int | None

    def splits(self) -> Iterator[tuple[Rows, Rows, dict[str, Any]]]:
        """Of each fold the rows to train on and to measure, and what is passed to `fit`."""
        for train, test in self.folds.split(self.rows.X, self.rows.y):
            yield rows_at(self.rows, train), rows_at(self.rows, test), _params_at(self.fit_params, self.rows, train)


def planned(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    validation: Any,
    cv: Any,
    metrics: Sequence[str] | str | Mapping[str, Callable[..., float]] | None,
    fit_params: Mapping[str, Any] | None,
    seed: int | None,
) -> Plan:
    """Checks what `fit` was given.

    Raises:
        CallError: Something of it can never work.
    """
    _check_estimator(estimator, cv)
    rows = checked_rows(X, y)
    task = task_of(estimator, rows.y)
    params = dict(fit_params or {})
    held: Rows | None = None
    if isinstance(validation, (tuple, list)):
        held = _other_rows(validation, rows)
    elif validation is not None:
        train, rest = split_indices(rows, validation, stratified=task == "classification", seed=seed)
        params = _params_at(params, rows, train)
        rows, held = rows_at(rows, train), rows_at(rows, rest)
    folds = None if cv is None else folds_of(cv, rows, task)
    check_early_stopping(estimator, held)
    return Plan(estimator, task, _metrics(metrics, estimator, task), rows, held, folds, params, seed)


def _check_estimator(estimator: Any, cv: Any) -> None:
    if isinstance(estimator, type):
        raise CallError(f"{estimator.__name__} is a class: pass an estimator, {estimator.__name__}(…)")
    if not callable(getattr(estimator, "fit", None)):  # `predict` may be there only once it is fitted
        raise CallError(f"{type(estimator).__name__} is no estimator: pass an object with fit(X, y) and predict(X)")
    if cv is not None and not hasattr(estimator, "get_params"):
        raise CallError(f"{type(estimator).__name__} has no get_params(), so cv cannot make a new one for each fold")


def _metrics(names: Any, estimator: Any, task: Task) -> list[Metric]:
    """Those that are named; of the usual ones, those that can be had."""
    chosen = metrics_of(default_metrics(task) if names is None else names)
    reasons = {metric.name: reason for metric in chosen if (reason := can_measure(metric, estimator, task))}
    if reasons and names is not None:
        raise CallError("; ".join(reasons.values()))
    return [metric for metric in chosen if metric.name not in reasons]


def _other_rows(validation: Any, rows: Rows) -> Rows:
    if len(validation) != 2:
        raise CallError(f"validation has {len(validation)} parts: pass (X, y), or a share of the rows")
    held = checked_rows(validation[0], validation[1], "validation: ")
    if held.X.shape[1:] != rows.X.shape[1:]:
        raise CallError(f"validation: X has the shape {held.X.shape}, and that to train on {rows.X.shape}")
    return held


def folds_of(cv: Any, rows: Rows, task: Task) -> Any:
    """One of scikit-learn's splitters.

    Args:
        cv: How many folds, a splitter, or pairs of indices.
        rows: To be split.
        task: For classes, each fold has the same share of each.

    Raises:
        CallError: It is none of these, or there are too few rows.
    """
    from sklearn.model_selection import check_cv

    try:
        folds = check_cv(cv, rows.y, classifier=task == "classification")
        highest = max(int(np.max(at)) for pair in folds.split(rows.X, rows.y) for at in pair)
    except (ValueError, TypeError) as error:
        hint = ": pass its pairs, cv=list(splitter.split(X, y, groups))" if "groups" in str(error) else ""
        raise CallError(f"cv={cv!r}: {' '.join(str(error).split()).rstrip('.')}{hint}") from None
    if highest >= rows.count:
        raise CallError(f"cv names row {highest:,}, and there are {rows.count:,} rows to train on")
    return folds


def _params_at(params: Mapping[str, Any], rows: Rows, at: Any) -> dict[str, Any]:
    """What is passed to `fit` for some of the rows: of what has one value a row (`sample_weight`), theirs."""
    return {key: at_rows(_as_rows(value), at) if _of_rows(value, rows) else value for key, value in params.items()}


def _as_rows(value: Any) -> Any:
    return value if hasattr(value, "shape") else np.asarray(value)


def _of_rows(value: Any, rows: Rows) -> bool:
    if isinstance(value, (str, bytes, dict)):
        return False
    shape = getattr(value, "shape", None)
    count = shape[0] if shape else len(value) if isinstance(value, (list, tuple)) else None
    return count == rows.count


def params_of(plan: Plan) -> dict[str, Any]:
    """The estimator's class and parameters, those that are set and small; of an estimator within it the class."""
    params = plan.estimator.get_params() if hasattr(plan.estimator, "get_params") else {}
    data = {"rows": plan.rows.count, "features": len(feature_names(plan.rows.X))}
    if plan.validation is not None:
        data["validation_rows"] = plan.validation.count
    small = {key: text for key, value in params.items() if (text := _small(value)) is not None}
    return {"estimator": type(plan.estimator).__name__, **small, "data": data}


def _small(value: Any) -> Any:
    """A value as a param; None where it is none, or too large for one."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if hasattr(value, "get_params"):
        return type(value).__name__
    if callable(value):
        return getattr(value, "__name__", None)
    text = str(value)
    return text if len(text) <= _LONGEST_PARAM else None
