"""How much each feature counts for a fitted model: its own figures, or what is lost when a feature is shuffled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from tailrace.training.measures.figures import new_figure
from tailrace.training.measures.input_data import Rows, feature_names
from tailrace.training.runs.run_log import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Importances", "draw_importances", "importances_of"]

_SHUFFLED_ROWS: Final = 500
_SHUFFLED_FEATURES: Final = 100
_REPEATS: Final = 3
_DRAWN: Final = 30


class Importances(NamedTuple):
    """Features and how much each counts, the most important first.

    Attributes:
        kind: `feature_importances_`, `coef_` (the mean of its absolute values over the classes) or `permutation`.
        features: Names, shape (features,).
        values: Shape (features,).
    """

    kind: str
    features: Sequence[str]
    values: Sequence[float]


def importances_of(
    model: Any, rows: Rows, loss: Callable[[Any, Rows], float], seed: int | None = None
) -> Importances | None:
    """The importances of a fitted model; None where there are none to be had.

    A model that has none of its own is asked again for 500 of the rows, with each feature shuffled, if there are a
    hundred features at most.

    Args:
        model: A fitted estimator, or a pipeline, whose last step counts.
        rows: By which features are shuffled.
        loss: How bad the model is on rows.
        seed: Of the shuffling.
    """
    last, names = _last_step(model, rows)
    for kind in ("feature_importances_", "coef_"):
        try:
            found = getattr(last, kind, None)
        except (AttributeError, ValueError):  # XGBoost and SVMs offer them for some of their kinds alone
            continue
        if found is not None:
            return _sorted(kind, names, _as_row(found))
    features = feature_names(rows.X)
    if len(features) > _SHUFFLED_FEATURES:
        warn(
            f"{type(last).__name__} has no importances of its own, and shuffling each of {len(features):,} features "
            "takes long: left out"
        )
        return None
    return _sorted("permutation", features, _shuffled(model, rows, loss, seed))


def _last_step(model: Any, rows: Rows) -> tuple[Any, Sequence[str]]:
    """The estimator that knows, and the names of what it was given."""
    from sklearn.pipeline import Pipeline

    if not isinstance(model, Pipeline):
        return model, feature_names(rows.X)
    try:
        return model[-1], [str(name) for name in model[:-1].get_feature_names_out(feature_names(rows.X))]
    except (AttributeError, ValueError):  # a step of the user's own, which does not say what it makes
        return model[-1], []


def _as_row(found: Any) -> Any:
    array = np.abs(found.toarray() if hasattr(found, "toarray") else np.asarray(found, dtype=float))
    return array.mean(axis=0) if array.ndim > 1 else array


def _sorted(kind: str, names: Sequence[str], values: Any) -> Importances:
    if len(names) != len(values):
        names = [f"x{at}" for at in range(len(values))]
    order = np.argsort(-values, kind="stable")
    return Importances(kind, [names[at] for at in order], [float(values[at]) for at in order])


def _shuffled(model: Any, rows: Rows, loss: Callable[[Any, Rows], float], seed: int | None) -> Any:
    from sklearn.inspection import permutation_importance
    from sklearn.utils import resample

    X, y = rows.X, rows.y
    if rows.count > _SHUFFLED_ROWS:
        X, y = resample(X, y, replace=False, n_samples=_SHUFFLED_ROWS, random_state=seed)
    if hasattr(X, "toarray"):  # a sparse matrix has no columns to shuffle
        X = X.toarray()

    def score(model: Any, X: Any, y: Any) -> float:
        return -loss(model, Rows(X, y))

    return permutation_importance(model, X, y, scoring=score, n_repeats=_REPEATS, random_state=seed).importances_mean


def draw_importances(found: Importances) -> Any:
    """The thirty most important features; None without matplotlib."""
    count = min(_DRAWN, len(found.features))
    figure = new_figure(7, 1.2 + 0.25 * count)
    if figure is None:
        return None
    axes = figure.subplots()
    axes.barh(range(count), found.values[:count][::-1])
    axes.set_yticks(range(count), found.features[:count][::-1])
    axes.set(xlabel=found.kind, title=f"The {count} most important of {len(found.features)} features")
    figure.tight_layout()
    return figure
