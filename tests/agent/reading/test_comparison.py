"""Runs side by side: what differs, and which metrics are meant."""

from __future__ import annotations

import math

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from tailrace import NotFound, Tracker
from tailrace_agent.reading.comparison import Comparison, matching


def test_a_comparison_puts_what_differs_first(tracker: Tracker, runs: dict[str, str]) -> None:
    comparison = tracker.compare_runs([runs["read-wide"], "read-small"])
    assert isinstance(comparison, Comparison)
    assert list(comparison.index) == [runs["read-wide"], runs["read-small"]]
    columns = list(comparison.columns)
    assert columns[:4] == ["run_name", "status", "start_time", "duration"]
    assert columns[4] == "params.lr"
    assert comparison.differing == [
        "params.lr",
        *("metrics.loss", "metrics.loss.max"),
        *("metrics.score", "metrics.score.min", "metrics.score.max"),
    ]
    assert columns.index("metrics.loss") < columns.index("params.seed") < columns.index("metrics.ok")
    assert comparison.loc[runs["read-small"], "params.lr"] == "0.1"


@pytest.fixture(scope="module")
def machines(uri: str, runs: dict[str, str]) -> list[str]:
    """Two runs with a metric of the machine, which differs as it always does, and a param that does not."""
    client = MlflowClient(uri)
    experiment_id = client.get_run(runs["read-small"]).info.experiment_id
    ids = []
    for value in (1.0, 2.0):
        ids.append(client.create_run(experiment_id).info.run_id)
        points = [Metric("system/load", value, 1000, 0), Metric("train/loss", value, 1000, 0)]
        client.log_batch(ids[-1], points, [Param("seed", "7")])
    for run_id in ids:
        client.delete_run(run_id)  # a whole id is found all the same, and other tests do not see it
    return ids


def test_metrics_of_the_machine_come_last_and_are_no_difference(tracker: Tracker, machines: list[str]) -> None:
    comparison = tracker.compare_runs(machines)
    train = ["metrics.train/loss", "metrics.train/loss.min", "metrics.train/loss.max"]
    assert list(comparison.columns)[4:] == [*train, "params.seed", "metrics.system/load"]
    assert comparison.differing == train
    assert comparison.iloc[:].differing == train, "a part of it, too"


def test_metrics_of_the_machine_count_when_they_are_asked_for(tracker: Tracker, machines: list[str]) -> None:
    for metrics in (["system/load"], "system/*"):
        assert tracker.compare_runs(machines, metrics).differing == [
            "metrics.system/load",
            "metrics.system/load.min",
            "metrics.system/load.max",
        ]
    assert "metrics.system/load" in tracker.compare_runs(machines, "*").differing
    assert tracker.compare_runs(machines, []).differing == ["metrics.train/loss"]


def test_named_metrics_come_with_their_smallest_and_largest_value(tracker: Tracker, runs: dict[str, str]) -> None:
    comparison = tracker.compare_runs(["read-small", "read-wide"], metrics=["lo*", "score", "odd"])
    small = comparison.loc[runs["read-small"]]
    assert (small["metrics.loss"], small["metrics.loss.min"]) == (pytest.approx(0.4), 0)
    assert small["metrics.loss.max"] == pytest.approx(0.4)
    assert (small["metrics.odd.min"], small["metrics.odd.max"]) == (-math.inf, math.inf)
    assert math.isnan(comparison.loc[runs["read-wide"], "metrics.score.min"]), "NaN alone has no smallest value"
    assert "metrics.ok" not in comparison.columns
    last = tracker.compare_runs(["read-small", "read-wide"], metrics=[])
    assert "metrics.ok" in last.columns
    assert "metrics.loss.max" not in last.columns
    with pytest.raises(NotFound, match="no metric fits 'acc'"):
        tracker.compare_runs(["read-small"], metrics=["acc"])


def test_a_metric_named_as_a_bound_of_another_one_keeps_its_column(
    tracker: Tracker, uri: str, runs: dict[str, str]
) -> None:
    client = MlflowClient(uri)
    run_id = client.create_run(client.get_run(runs["read-small"]).info.experiment_id).info.run_id
    values = {"loss": (3.0, 1.0, 2.0), "loss.min": (103.0, 101.0, 102.0)}
    client.log_batch(run_id, [Metric(k, v, 1000 + i, i) for k, vs in values.items() for i, v in enumerate(vs)])
    client.delete_run(run_id)
    expected = {
        "metrics.loss": 2, "metrics.loss.max": 3,
        "metrics.loss.min": 102, "metrics.loss.min.min": 101, "metrics.loss.min.max": 103,
    }  # fmt: skip
    comparison = tracker.compare_runs([run_id])
    found = {x: comparison.loc[run_id, x] for x in comparison.columns if str(x).startswith("metrics.")}
    assert found == expected
    assert comparison.ends == {"metrics.loss.max", "metrics.loss.min.min", "metrics.loss.min.max"}
    assert len(comparison.iloc[:].plot("loss.min").axes) == 1, "it is a metric, also to a figure"
    alone = tracker.compare_runs([run_id], metrics=["loss"])
    assert [x for x in alone.columns if str(x).startswith("metrics.")] == ["metrics.loss", "metrics.loss.max"]


def test_patterns_choose_in_the_order_asked_for() -> None:
    assert matching(["a", "b/x", "b/y"], ["b/*", "a"]) == ["b/x", "b/y", "a"]
    assert matching(["a[0]", "a0"], "a[0]") == ["a[0]"], "a name that is there is no pattern"
