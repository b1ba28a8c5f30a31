"""Which run is logged to, and what is left out where a tracker has less."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.least_tracker import LeastTracker
from helpers.sdk_tools import Store, said
from tailrace import CallError, Tracker
from tailrace.training.runs.run_log import has_active_run, open_run


def test_what_a_tracker_lacks_is_left_out_with_one_warning_each(caplog: pytest.LogCaptureFixture) -> None:
    least = LeastTracker()
    assert not has_active_run(least)
    with open_run(least, "mine") as run:
        for _ in range(2):
            run.log_table({"a": [1]}, "a.csv")
            assert run.log_model(object(), input_example=None, register=None, flavor=None) is None
        run.log({}, step=1)
        run.log_figure(None, "nothing.png")
        assert run.mlflow_id() is None
    assert (least.started, least.ended, least.logged, least.figures) == (["mine"], ["FINISHED"], [], [])
    assert len(said(caplog)) == 2
    with (
        pytest.raises(CallError, match="LeastTracker cannot go on with run 0f6a"),
        open_run(least, None, run_id="0f6a"),
    ):
        pass


def test_a_run_is_joined_gone_on_with_or_begun_below_another(shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    with open_run(tracker, "first") as first:
        first.log({"a": 1.0}, step=0)
    first_id = str(first.mlflow_id())
    with tracker.start_run(run_name="active") as active:
        assert has_active_run(tracker)
        with open_run(tracker, "ignored", otherwise=first_id) as joined:
            joined.log({"joined": 1.0}, step=0)
        with open_run(tracker, "ignored", run_id=first_id) as again:
            again.log({"b": 1.0}, step=0)
        with open_run(tracker, "child", below=first_id) as child:
            child.log({"c": 1.0}, step=0)
        assert tracker.active_run() is active
    with open_run(tracker, "ignored", otherwise=first_id) as last:
        last.log({"d": 1.0}, step=0)
    assert joined.mlflow_id() == active.run_id
    found = Store(uri, first_id)
    assert found.metrics().keys() == {"a", "b", "d"}
    assert found.status == "FINISHED"
    below: Any = Store(uri, str(child.mlflow_id()))
    assert below.tags["mlflow.parentRunId"] == first_id
    assert below.run.info.run_name == "child"
