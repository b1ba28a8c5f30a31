"""A metric's whole history, and its smallest and largest value."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Metric

from helpers.sdk_tools import eventually, tracking
from tailrace import NotFound, Tracker
from tailrace_agent.errors import Unavailable
from tailrace_agent.mlflow import stores as mlflow_store
from tailrace_agent.reading import history as mlflow_history
from tailrace_agent.reading.history import _from_server


def test_history_is_whole_sorted_and_exact(tracker: Tracker, runs: dict[str, str]) -> None:
    history = tracker.metric_history("read-small")
    assert list(history.columns) == ["key", "step", "timestamp", "value"]
    assert str(history.dtypes["timestamp"]) == "datetime64[ms, UTC]"
    assert history["key"].unique().tolist() == ["loss", "odd", "ok", "score"]
    loss = tracker.metric_history("read-small", "loss")
    assert loss["step"].tolist() == [0, 1, 2, 3, 4]
    assert loss["value"].tolist() == [0.1 * (step - 2) ** 2 for step in range(5)]
    odd = tracker.metric_history("read-small", ["odd"])["value"].tolist()
    assert math.isnan(odd[0])
    assert odd[1:] == [math.inf, -math.inf]
    assert tracker.metric_history("read-small", ["o*"])["key"].unique().tolist() == ["odd", "ok"]
    with pytest.raises(NotFound, match="there are: loss"):
        tracker.metric_history("read-small", "accuracy")


def test_more_points_than_a_page_holds_all_come_back(
    uri: str, tracker: Tracker, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_history, "GET_METRIC_HISTORY_MAX_RESULTS", 700)
    monkeypatch.setattr(mlflow_history, "_ROWS", 700)
    client = MlflowClient(uri)
    run_id = client.create_run(client.get_run(runs["read-small"]).info.experiment_id).info.run_id
    try:
        for first in (0, 1000):
            points = [Metric("m", i / 2, 1_700_000_000_000 + i // 3, i) for i in range(first, first + 1000)]
            client.log_batch(run_id, points)
        history = tracker.metric_history(run_id, "m")
        assert np.array_equal(history["step"], np.arange(2000))
        assert np.array_equal(history["value"], np.arange(2000) / 2)
    finally:
        client.delete_run(run_id)


def test_over_http_the_extremes_of_finished_runs_are_noted_and_no_history_is_read(
    uri: str, tracker: Tracker, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    honest = mlflow_history.extremes
    monkeypatch.setattr(mlflow_history, "extremes", lambda store, wanted: read.extend(wanted) or honest(store, wanted))
    ids = [runs["read-small"], runs["read-wide"], runs["elsewhere"]]
    columns = [f"metrics.{key}.{end}" for key in ("loss", "ok", "odd", "score") for end in ("min", "max")]
    noted = tracker.compare_runs(ids)[columns]
    assert (read == []) == uri.startswith("http"), "a database is asked, and answers as fast"
    monkeypatch.setattr("tailrace_agent.reading.reader.known", lambda *_: {})
    pd.testing.assert_frame_equal(noted, tracker.compare_runs(ids)[columns])
    assert {"loss", "ok", "odd", "score"} <= set(read)


def test_a_note_does_not_count_once_somebody_else_has_written_to_the_run(
    mlflow_server: str,
) -> None:
    with tracking(mlflow_server, experiment_name="noted") as tracker:
        with tracker.start_run() as run:
            for step in range(3):
                run.log(step=step, mine=float(step), both=float(step))
        tracker.flush()
        client = MlflowClient(mlflow_server)
        eventually(lambda: "tailrace.extremes" in client.get_run(run.run_id).data.tags)
        client.log_metric(run.run_id, "both", -7.0, step=9)
        found = tracker.compare_runs([run.run_id]).iloc[0]
        assert (found["metrics.mine.min"], found["metrics.mine.max"]) == (0.0, 2.0)
        assert (found["metrics.both.min"], found["metrics.both.max"]) == (-7.0, 2.0)

        with tracker.start_run(run_id=run.run_id) as again:
            again.log(step=0, mine=-3.0)  # a step that is not the last
        assert client.get_run(run.run_id).data.tags["tailrace.shared"] == "true"
        found = tracker.compare_runs([run.run_id]).iloc[0]
        assert (found["metrics.mine.min"], found["metrics.mine.max"]) == (-3.0, 2.0)


def test_the_extremes_of_long_histories_are_whole(
    uri: str, tracker: Tracker, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (mlflow_history, mlflow_store):  # so the server cuts its answers off there
        monkeypatch.setattr(module, "HISTORY_AT_MOST", 9)
    client = MlflowClient(uri)
    experiment_id = client.get_run(runs["read-small"]).info.experiment_id
    lengths = [4, 4, 0, 1, 30, 4, 5, 9, 1, 12, 3]  # so answers end within a run, between two, and within a page
    ids = [client.create_run(experiment_id).info.run_id for _ in lengths]
    try:
        for number, (run_id, length) in enumerate(zip(ids, lengths, strict=True)):
            # The smallest value is the first of all, the largest the last.
            points = [Metric("m", 100 * number + i, 1_700_000_000_000, i) for i in range(length)]
            client.log_batch(run_id, [*points, Metric("other", 0.0, 1_700_000_000_000, 0)])
        comparison = tracker.compare_runs(ids, ["m", "other"])
        found = comparison[["metrics.m.min", "metrics.m.max"]].to_numpy()
        for number, (length, (low, high)) in enumerate(zip(lengths, found, strict=True)):
            if length:
                assert (low, high) == (100 * number, 100 * number + length - 1)
            else:
                assert math.isnan(low)
                assert math.isnan(high)
        assert comparison["metrics.other.max"].tolist() == [0.0] * len(ids)
    finally:
        for run_id in ids:
            client.delete_run(run_id)


def test_the_extremes_of_a_thousand_metrics_are_read_in_statements_that_every_sqlite_takes(sqlite_uri: str) -> None:
    client, sizes = MlflowClient(sqlite_uri), list[int]()
    run_id = client.create_run("0").info.run_id
    names = [f"m{number}" for number in range(1000)]
    client.log_batch(run_id, [Metric(name, float(i), 1000, 0) for i, name in enumerate(names)])
    store: Any = mlflow_store.open_store(sqlite_uri, "/", 20)

    def note(_connection: object, _cursor: object, statement: str, parameters: tuple[object, ...], *_: object) -> None:
        if "min(" in statement:
            sizes.append(len(parameters))

    sqlalchemy.event.listen(store.engine, "before_cursor_execute", note)
    found = mlflow_history.extremes(store, {name: [run_id] for name in names})
    assert found == {(run_id, name): (i, i) for i, name in enumerate(names)}
    assert len(sizes) > 1
    assert max(sizes) <= 999


_ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("tokens", "points"), [([f"t{number}" for number in range(1000)], 0), (["a", "b", "a"], 0), (["a", "b", "a"], 1)]
)
def test_a_history_that_a_server_never_ends_is_none(tokens: list[str], points: int) -> None:
    told = iter(tokens)
    page = {"metrics": [{"timestamp": "1", "value": 1.0, "step": "1"}] * points}
    history = _from_server(lambda _: json.dumps({**page, "next_page_token": next(told)}).encode(), _ID, "loss")
    with pytest.raises(Unavailable, match="has no end"):
        list(history)


def test_a_history_is_read_over_pages_with_nothing_on_them() -> None:
    point = {"timestamp": "1", "value": "NaN", "step": "7"}
    told = [{"next_page_token": "a"}, {"metrics": [point], "next_page_token": "b"}, {"metrics": [point]}]
    asked: list[str | None] = []

    def fetch(request: dict[str, str]) -> bytes:
        asked.append(request.get("page_token"))
        return json.dumps(told[len(asked) - 1]).encode()

    assert [list(piece.step) for piece in _from_server(fetch, _ID, "loss")] == [[7], [7]]
    assert asked == [None, "a", "b"]
