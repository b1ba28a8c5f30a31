"""Which run a training logs to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from helpers.training import ListTracker
from tailrace.training.runs.tracked_run import TrackedRun, entered


def test_any_tracker_gets_a_run_of_its_own_and_texts_as_files() -> None:
    tracker = ListTracker()
    with entered(tracker, run_name="mine", resumed=None) as run:
        run.log_text("lr: 1", "config/config.yaml")
        run.log_text("hello", "notes.txt")
        assert run.run_id() is None
    assert tracker.runs == ["mine"]
    assert tracker.files == ["config/config.yaml", "notes.txt"]


@pytest.mark.parametrize(("delivered", "expected"), [(0, None), (3, "abc")])
def test_after_an_end_that_has_waited_for_mlflow_in_vain_the_id_is_not_waited_for_again(
    delivered: int, expected: str | None
) -> None:
    ledger = SimpleNamespace(settled=False, delivered=delivered)
    run = SimpleNamespace(run_id="abc", ledger=lambda: ledger)
    assert TrackedRun(None, run=run, own=True).run_id() == expected
    assert TrackedRun(None, run=run).run_id() == "abc"
