"""Tables of classes, also of those that have no rows or that the model does not know."""

from __future__ import annotations

import numpy as np

from tailrace.training.evaluation.class_tables import confusion, draw_confusion, per_class
from tailrace.training.measures.input_data import checked_rows
from tailrace.training.measures.predictions import Predictions


def test_every_class_has_a_row_whether_it_was_found_or_not() -> None:
    rows = checked_rows(np.zeros((4, 1)), ["a", "a", "b", "new"])
    found = Predictions("classification", rows, np.array(["a", "b", "b", "a"]), np.array(["a", "b", "c"]), None, None)
    labels, counts = confusion(found)
    assert labels.tolist() == ["a", "b", "c", "new"]
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    table = per_class(found)
    assert table["a"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "rows": 2}
    assert table["c"] == {"precision": 0, "recall": 0, "f1": 0, "rows": 0}
    assert table["new"]["recall"] == 0
    assert draw_confusion(labels, counts) is not None
