"""A tracker as a context manager."""

from __future__ import annotations

import pytest

from helpers.sdk_tools import named
from tailrace import Tracker, TrackingConfig
from tailrace._api.tracker_part import tracker_core_of


def test_a_tracker_is_a_context_manager_that_starts_and_ends_a_run(tracked: tuple[Tracker, str]) -> None:
    shared, uri = tracked
    config = TrackingConfig(run_name="managed", tags={"team": "a"})
    tracker = Tracker(
        uri, "experiments", config=config, agent="thread", quiet=True, dir=tracker_core_of(shared).given["dir"]
    )
    with tracker as entered:
        assert entered is tracker
        tracker.log(step=0, loss=0.5)
        with tracker.start_run(nested=True, run_name="child"):
            tracker.log(step=0, loss=0.25)
    assert tracker.active_run() is None
    stored = named(uri, "managed")
    assert (stored.status, stored.tags["team"], stored.history("loss")) == ("FINISHED", "a", [(0, 0.5)])
    assert named(uri, "child").tags["mlflow.parentRunId"] == stored.run_id

    by_hand = Tracker(
        uri, "experiments", auto_start_run=False, agent="thread", quiet=True, dir=tracker_core_of(shared).given["dir"]
    )

    def by_hand_and_wrong() -> None:
        with by_hand:
            assert by_hand.active_run() is None
            by_hand.start_run(run_name="by hand")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        by_hand_and_wrong()
    assert named(uri, "by hand").status == "FAILED"
