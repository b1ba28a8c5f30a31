"""Rows: what is taken, how they are split, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_matrix

from tailrace import CallError
from tailrace.training.measures.input_data import (
    at_rows,
    checked_rows,
    feature_names,
    first_rows,
    split_indices,
    without_categories,
)

X = np.arange(20.0).reshape(10, 2)


@pytest.mark.parametrize("y", [pd.DataFrame({"t": range(10)}), np.arange(10)[:, None], range(10), pd.Series(range(10))])
def test_one_column_of_targets_is_one_target_a_row(y: Any) -> None:
    assert np.asarray(checked_rows(X, y).y).tolist() == list(range(10))


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA, pd.NaT])
def test_missing_targets_are_counted_in_whatever_shape(missing: Any) -> None:
    with pytest.raises(CallError, match=r"1 of 10 targets are missing \(the first is row 1\)"):
        checked_rows(X, pd.Series([0, missing, *range(8)], dtype=object))


def test_a_split_has_each_class_in_its_share_where_there_is_enough() -> None:
    y = np.array([0, 1] * 5)
    train, held = split_indices(checked_rows(X, y), 0.4, stratified=True, seed=0)
    assert sorted([*train, *held]) == list(range(10))
    assert y[held].tolist().count(0) == 2
    split_indices(checked_rows(X, [0] * 9 + [1]), 0.4, stratified=True, seed=0)  # one row of a class cannot be shared
    for share in (0, 1, -0.5, True, "half", 0.99):
        with pytest.raises(CallError, match="validation="):
            split_indices(checked_rows(X, y), share, stratified=True, seed=0)


def test_rows_are_taken_from_whatever_has_them() -> None:
    assert at_rows(coo_matrix(X), np.array([1])).toarray().tolist() == [[2.0, 3.0]]
    assert first_rows(pd.DataFrame(X), 2).shape == (2, 2)
    assert feature_names(pd.DataFrame(X, columns=["a", "b"])) == ["a", "b"]
    assert feature_names(X) == ["x0", "x1"]


def test_categories_become_the_values_that_they_stand_for() -> None:
    frame = pd.DataFrame({"a": pd.Categorical(["x", "y"]), "b": pd.Categorical([3, 4]), "c": [0.5, 1.5]})
    plain = without_categories(frame)
    assert [dtype.kind for dtype in plain.dtypes[["b", "c"]]] == ["i", "f"]
    assert plain["a"].tolist() == ["x", "y"]
    assert without_categories(plain) is plain
    assert without_categories(X) is X


def test_rows_of_different_length_are_no_table() -> None:
    with pytest.raises(CallError, match="X is no table"):
        checked_rows([[1.0], [1.0, 2.0]], [0, 1])
