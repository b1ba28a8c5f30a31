"""The rows that a model learns from, or is measured on: checked before anything starts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Rows",
    "at_rows",
    "checked_rows",
    "feature_names",
    "first_rows",
    "rows_at",
    "split_indices",
    "without_categories",
]


@dataclass(frozen=True)
class Rows:
    """Features and targets of the same rows.

    Attributes:
        X: Features, shape (rows, features): an array, a frame, a sparse matrix.
        y: Targets, shape (rows,), as an array or as the Series that was passed.
    """

    X: Any
    y: Any

    @property
    def count(self) -> int:
        """How many rows there are."""
        return int(self.X.shape[0])


def checked_rows(X: Any, y: Any, what: str = "") -> Rows:
    """Features and targets, as what models take.

    Args:
        X: Features, anything with rows.
        y: One target for each row; one column will do.
        what: What the rows are for (`validation: `), for messages.

    Raises:
        CallError: There are no rows, their numbers differ, a target is missing, or there are several for each row.

    Example:
        >>> checked_rows([[1.0], [2.0]], [0, 1]).count
        2
    """
    for name, values in (("X", X), ("y", y)):
        if values is None:
            raise CallError(f"{what}{name} is None: pass features and targets, one target a row")
    features = X if hasattr(X, "shape") else _array(X, f"{what}X")
    targets = y if hasattr(y, "shape") else _array(y, f"{what}y")
    if targets.ndim == 2 and targets.shape[1] == 1:  # one column of a frame
        targets = targets.iloc[:, 0] if hasattr(targets, "iloc") else np.asarray(targets)[:, 0]
    if targets.ndim != 1:
        raise CallError(f"{what}y has the shape {tuple(targets.shape)}: one target a row is needed, shape (rows,)")
    rows = Rows(features, targets)
    if features.ndim == 0 or rows.count != len(targets):
        count = "no rows" if features.ndim == 0 else f"{rows.count:,} rows"
        raise CallError(f"{what}X has {count} and y has {len(targets):,}: each row needs its target")
    if rows.count == 0:
        raise CallError(f"{what}X and y have no rows")
    missing = _missing(targets)
    if missing.any():
        at = int(np.flatnonzero(missing)[0])
        raise CallError(
            f"{what}{int(missing.sum()):,} of {rows.count:,} targets are missing (the first is row {at:,}): "
            "leave those rows out, or fill them in"
        )
    return rows


def _array(values: Any, what: str) -> Any:
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of different length
        raise CallError(f"{what} is no table: {error}") from None


def _missing(targets: Any) -> Any:
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        return np.asarray(pandas.isna(targets))
    values = np.asarray(targets)
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype == object:
        return np.array([_is_missing(value) for value in values])
    return np.zeros(len(values), dtype=bool)


def _is_missing(value: Any) -> bool:
    return value is None or bool(value != value)  # noqa: PLR0124 - NaN alone differs from itself


def split_indices(rows: Rows, share: Any, *, stratified: bool, seed: int | None) -> tuple[Any, Any]:
    """Which rows are to train on and which to validate with, by chance; of each class the same share, if it has enough.

    Returns:
        Two arrays of indices.

    Raises:
        CallError: The share is none, or leaves one of the two without rows.
    """
    from sklearn.model_selection import train_test_split

    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise CallError(f"validation={share!r} is no share of the rows: pass one between 0 and 1, or (X, y)")
    held = max(1, round(share * rows.count))
    if held >= rows.count:
        raise CallError(f"validation={share!r} leaves no rows to train on: there are {rows.count:,}")
    labels = np.asarray(rows.y) if stratified else None
    if labels is not None:
        _, counts = np.unique(labels, return_counts=True)
        if counts.min() < 2 or min(held, rows.count - held) < len(counts):
            labels = None
    train, validation = train_test_split(np.arange(rows.count), test_size=held, random_state=seed, stratify=labels)
    return train, validation


def rows_at(rows: Rows, at: Any) -> Rows:
    """Some of the rows, by their indices."""
    return Rows(at_rows(rows.X, at), at_rows(rows.y, at))


def at_rows(values: Any, at: Any) -> Any:
    """Rows of anything that has them."""
    if hasattr(values, "iloc"):
        return values.iloc[at]
    return values.tocsr()[at] if hasattr(values, "tocsr") else values[at]


def first_rows(X: Any, count: int = 5) -> Any:
    """A small input, for a model's signature."""
    return at_rows(X, slice(count))


def without_categories(X: Any) -> Any:
    """A frame with the values of its categories as they are; anything else, and a frame without any, as it is."""
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(X, pandas.DataFrame):
        return X
    kinds = {
        name: dtype.categories.dtype for name, dtype in X.dtypes.items() if isinstance(dtype, pandas.CategoricalDtype)
    }
    return X.astype(kinds) if kinds else X


def feature_names(X: Any) -> Sequence[str]:
    """The columns' names; of an array `x0`, `x1`, …, as scikit-learn has them."""
    columns = getattr(X, "columns", None)
    if columns is not None:
        return [str(name) for name in columns]
    return [f"x{at}" for at in range(X.shape[1] if X.ndim > 1 else 1)]
