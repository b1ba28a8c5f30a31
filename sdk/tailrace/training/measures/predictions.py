"""What a model says of some rows, asked once: scikit-learn's scorers ask it again, and find the answers here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier, is_regressor
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target

from tailrace.training.runs.run_log import warn
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailrace.training.measures.input_data import Rows
    from tailrace.training.measures.metric_names import Metric, Task

__all__ = ["Predictions", "can_measure", "predict", "scores", "task_of"]


class _Classes(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Answers as the classifier did, whatever rows it is asked for."""

    def __init__(self, classes: Any, labels: Any, probabilities: Any, decisions: Any) -> None:
        self.classes_, self.labels_ = classes, labels
        self.probabilities_, self.decisions_ = probabilities, decisions

    def predict(self, X: Any) -> Any:  # noqa: ARG002 - the answers are those of its rows
        return self.labels_

    @available_if(lambda self: self.probabilities_ is not None)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:  # noqa: ARG002
        return self.probabilities_

    @available_if(lambda self: self.decisions_ is not None)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Any:  # noqa: ARG002
        return self.decisions_


class _Values(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Answers as the regressor did."""

    def __init__(self, values: Any) -> None:
        self.values_ = values

    def predict(self, X: Any) -> Any:  # noqa: ARG002
        return self.values_


class Predictions:
    """What a model says of some rows.

    Attributes:
        task: Classification or regression.
        rows: The rows.
        values: The predicted label or number of each row, shape (rows,).
        classes: The classes that the model knows, sorted, shape (classes,); empty for regression.
        probabilities: Of each class, shape (rows, classes); None where the model has none.
        decisions: What the model decides by, shape (rows,) or (rows, classes), where it has no probabilities.
    """

    def __init__(self, task: Task, rows: Rows, values: Any, classes: Any, probabilities: Any, decisions: Any) -> None:
        self.task: Task = task
        self.rows, self.values, self.classes = rows, values, classes
        self.probabilities, self.decisions = probabilities, decisions

    @property
    def estimator(self) -> Any:
        """For scorers: an estimator that answers from here."""
        if self.task == "regression":
            return _Values(self.values)
        return _Classes(self.classes, self.values, self.probabilities, self.decisions)

    @property
    def class_scores(self) -> Any:
        """A score of each class, larger for what is likelier, shape (rows, classes); None where there is none."""
        if self.probabilities is not None:
            return self.probabilities
        if self.decisions is None:
            return None
        return np.stack([-self.decisions, self.decisions], axis=1) if self.decisions.ndim == 1 else self.decisions


def task_of(model: Any, y: Any) -> Task:
    """What a model does; where it does not say so, what its targets look like.

    Example:
        >>> task_of(None, [0.5, 1.7])
        'regression'
    """
    if hasattr(model, "fit") or hasattr(model, "classes_"):  # scikit-learn refuses to look at anything else
        if is_classifier(model):
            return "classification"
        if is_regressor(model):
            return "regression"
    return "regression" if type_of_target(np.asarray(y)).startswith("continuous") else "classification"


def predict(model: Any, rows: Rows, task: Task) -> Predictions:
    """Asks a fitted model.

    Raises:
        CallError: It has no `predict`, or its answers do not fit the rows.
    """
    if not callable(getattr(model, "predict", None)):
        raise CallError(
            f"a model of type {type(model).__name__} has no predict(): pass an estimator, the URI of a model, or what "
            "has predict(X)"
        )
    values = _flat(model.predict(rows.X))
    if values.ndim == 2 and values.shape[1] > 1:
        raise CallError(f"predict() gives {values.shape[1]} columns: one label or number a row is needed")
    if len(values) != rows.count:
        raise CallError(f"predict() gives {len(values):,} answers for {rows.count:,} rows")
    if task == "regression":
        return Predictions(task, rows, values, np.array([]), None, None)
    return _of_classes(model, rows, values)


def _of_classes(model: Any, rows: Rows, values: Any) -> Predictions:
    y = np.asarray(rows.y)
    known = getattr(model, "classes_", None)
    classes = np.asarray(known) if known is not None else _union(values, y)
    found = {str(type_) for type_ in map(_kind, (classes, y))}
    if len(found) > 1:
        raise CallError(
            f"y has labels such as {y.tolist()[0]!r}, and the model predicts such as {classes.tolist()[0]!r}: "
            "pass the targets as the model learned them"
        )
    probabilities = decisions = None
    if callable(ask := getattr(model, "predict_proba", None)):
        probabilities = np.asarray(ask(rows.X))
        if probabilities.shape != (rows.count, len(classes)):
            probabilities = None  # of a model that does not say which classes they are of
    elif callable(ask := getattr(model, "decision_function", None)):
        decisions = np.asarray(ask(rows.X))
        if decisions.ndim > 1 and decisions.shape[1] != len(classes):
            decisions = None  # one class against one other each: no score of a class
    return Predictions("classification", rows, values, classes, probabilities, decisions)


def _flat(values: Any) -> Any:
    array = np.asarray(values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _union(values: Any, y: Any) -> Any:
    try:
        return np.unique(np.concatenate([np.unique(y), np.unique(values)]))
    except TypeError:  # texts and numbers, which have no order
        return np.unique(values)


def _kind(labels: Any) -> str:
    number = labels.dtype.kind in "biuf" or (len(labels) and isinstance(labels[0], (int, float, np.number, np.bool_)))
    return "number" if number else "text"


def can_measure(metric: Metric, model: Any, task: Task) -> str | None:
    """Why a metric cannot be had of a model; None if it can. Nothing is predicted."""
    if metric.task is not None and metric.task != task:
        return f"metric {metric.name!r} is one of {metric.task}, and this is {task}"
    methods = [method for method in metric.methods if hasattr(model, method) or _may_have(model, method)]
    if metric.methods and not methods:
        name = "the model" if isinstance(model, _Classes) else type(model).__name__
        return f"metric {metric.name!r} needs {' or '.join(metric.methods)}, which {name} has not"
    return None


def _may_have(model: Any, method: str) -> bool:
    """What is made of other estimators may know only once it is fitted."""
    return hasattr(type(model), method) and not hasattr(model, "classes_")


def scores(predictions: Predictions, metrics: Iterable[Metric], where: str = "") -> dict[str, float]:
    """The metrics, by name. One that is not defined for these rows is left out, with a warning.

    Args:
        predictions: What the model says of the rows.
        metrics: What is measured.
        where: Of which rows, for the warning.
    """
    import warnings

    found: dict[str, float] = {}
    for metric in metrics:
        if reason := can_measure(metric, predictions.estimator, predictions.task):
            warn(f"{reason}: it is left out{where}")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's own, of classes without rows
            try:
                value = metric.of(predictions.estimator, predictions.rows.X, predictions.rows.y)
            except ValueError as error:
                warn(f"metric {metric.name!r} is left out{where}: {' '.join(str(error).split())}")
                continue
        if np.isnan(value):
            warn(f"metric {metric.name!r} is left out{where}: it is not defined for these rows")
            continue
        found[metric.name] = value
    return found
