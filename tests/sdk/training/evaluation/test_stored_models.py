"""Models by their URI."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from helpers.least_tracker import LeastTracker
from tailrace import CallError, Tracker
from tailrace.training.evaluation.stored_models import is_model_uri, load


def test_a_uri_is_told_from_a_name() -> None:
    assert [is_model_uri(each) for each in ("models:/a/1", "runs:/0f/model", "a", None)] == [True, True, False, False]


def test_a_model_comes_back_as_what_it_was_with_its_run(shared: tuple[Tracker, str]) -> None:
    tracker, _ = shared
    model = DecisionTreeClassifier().fit(np.arange(4.0)[:, None], [0, 1, 0, 1])
    with tracker.start_run() as run:
        tracker.log_model(model)
    loaded, run_id = load(f"runs:/{run.run_id}/model", tracker)
    assert type(loaded) is DecisionTreeClassifier
    assert run_id == run.run_id
    with pytest.raises(CallError, match=r"LeastTracker has no load_model\(\)"):
        load("models:/a/1", LeastTracker())
