"""What lies over a store's answer: `tailrace.store.overlay`."""

from __future__ import annotations

import math

import pytest
from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag

from tailrace.store.overlay import Written, changed, overlaid


def _run() -> Run:
    info = RunInfo("r", "0", "ada", "RUNNING", 1000, None, "active", "/somewhere", "old name")
    data = RunData([Metric("loss", 0.5, 2000, 5)], [Param("lr", "0.1")], [RunTag("team", "vision")])
    return Run(info, data)


def test_the_latest_metric_is_that_of_the_largest_step_time_and_value() -> None:
    written = Written()
    written.add([("loss", 9.0, 3000, 4), ("new", 1.0, 10, 0), ("new", 2.0, 10, 0)], [], [])
    assert overlaid(_run(), written).data.metrics == {"loss": 0.5, "new": 2.0}
    written.add([("loss", 0.1, 1000, 6), ("new", 0.0, 9, 0)], [], [])
    assert overlaid(_run(), written).data.metrics == {"loss": 0.1, "new": 2.0}
    written.add([("new", math.nan, 11, 0)], [], [])
    assert math.isnan(overlaid(_run(), written).data.metrics["new"])


@pytest.mark.parametrize(("first", "then", "latest"), [(math.nan, 1.0, 1.0), (math.nan, -1.0, math.nan)])
def test_of_two_at_one_moment_nan_counts_as_a_zero(first: float, then: float, latest: float) -> None:
    for values in ((first, then), (then, first)):
        written, before, later = Written(), Written(), Written()
        written.add([("a", value, 5, 1) for value in values], [], [])
        before.add([("a", values[0], 5, 1)], [], [])
        later.add([("a", values[1], 5, 1)], [], [])
        before.add_all(later)
        assert [repr(each.metrics["a"][2]) for each in (written, before)] == [repr(latest)] * 2
        answer = Run(_run().info, RunData([Metric("a", values[0], 5, 1)]))
        assert repr(overlaid(answer, later).data.metrics["a"]) == repr(latest)


def test_an_empty_name_leaves_the_name_as_it_is() -> None:
    written = Written()
    written.add([], [], [RunTag("mlflow.runName", "")])
    assert overlaid(_run(), written).info.run_name == "old name"


def test_a_param_of_the_store_stays_and_a_tag_gives_way() -> None:
    written = Written()
    written.add(
        [], [Param("lr", "0.2"), Param("layers", "3")], [RunTag("team", "audio"), RunTag("mlflow.runName", "n")]
    )
    run = overlaid(_run(), written)
    assert run.data.params == {"lr": "0.1", "layers": "3"}
    assert run.data.tags == {"team": "audio", "mlflow.runName": "n"}
    assert run.info.run_name == "n"


def test_the_answer_itself_is_not_changed() -> None:
    answer, written = _run(), Written()
    written.add([("loss", 0.1, 3000, 6)], [Param("layers", "3")], [RunTag("a", "b")])
    run = overlaid(answer, written, status="FINISHED", end_time=5)
    assert (run.info.status, run.info.end_time) == ("FINISHED", 5)
    assert (answer.info.status, answer.data.metrics, answer.data.params) == ("RUNNING", {"loss": 0.5}, {"lr": "0.1"})
    assert changed(answer.info, status="FAILED").artifact_uri == "/somewhere"


def test_what_was_written_later_lies_over_what_was_written_before() -> None:
    before, later = Written(), Written()
    before.add([("loss", 1.0, 1, 9)], [Param("a", "1")], [RunTag("t", "1")])
    later.add([("loss", 2.0, 2, 8)], [Param("a", "2")], [RunTag("t", "2")])
    before.add_all(later)
    assert (before.metrics["loss"][2], before.params, before.tags) == (1.0, {"a": "1"}, {"t": "2"})
    assert bool(before)
    assert not Written()


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 300])
def test_rows_that_are_looked_through_later_leave_the_same_as_values_that_are_looked_at_now(rows: int) -> None:
    at_once, later, row = Written(), Written(), {"loss": 0.0, "best": 0.0}
    for number in range(rows):
        step, timestamp = (number * 7) % rows, 5 - number % 3
        row.update(loss=float(number), best=-float(number))  # the caller's own, who fills it anew
        at_once.add([(key, value, timestamp, step) for key, value in row.items()], (), ())
        later.add_row(row, step, timestamp)
    assert bool(later)
    assert later.metrics == at_once.metrics
