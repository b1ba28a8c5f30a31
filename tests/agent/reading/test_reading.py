"""Reading back: runs that are searched, found, compared and drawn, and their whole history."""

from __future__ import annotations

import math
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

import tailrace
from helpers.sdk_tools import eventually, tracking
from tailrace import CallError, NotFound, StoreRefused, Tracker
from tailrace_agent.errors import Refused
from tailrace_agent.mlflow import stores as mlflow_store
from tailrace_agent.mlflow.stores import in_flight
from tailrace_agent.reading import history as mlflow_history
from tailrace_agent.reading.comparison import Comparison, matching
from tailrace_agent.reading.reader import open_reader

EXPERIMENT = "reading"
CALLER: ContextVar[str] = ContextVar("caller")
_MADE: dict[str, dict[str, str]] = {}


@pytest.fixture(scope="module", params=["sqlite", "server"])
def uri(request: pytest.FixtureRequest, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two runs of one experiment, and one of another."""
    if request.param == "server":
        found: str = request.getfixturevalue("mlflow_server")
    else:
        path = tmp_path_factory.mktemp("reading") / "mlflow.db"
        path.write_bytes(sqlite_template.read_bytes())
        found = f"sqlite:///{path}"
    return found


@pytest.fixture(scope="module")
def runs(uri: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """MLflow's ids, by name. Made once in a store: pytest may come back to the server after the other parameter."""
    if uri in _MADE:
        return _MADE[uri]
    ids = _MADE[uri] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILRACE_DIR", str(tmp_path_factory.mktemp("state")))
        with tracking(uri, experiment_name=EXPERIMENT) as tracker:
            for name, rate in (("read-small", 0.1), ("read-wide", 0.2)):
                with tracker.start_run(run_name=name, params={"lr": rate, "seed": 7}) as run:
                    for step in range(5):
                        run.log(step=step, loss=rate * (step - 2) ** 2, ok=1.0)
                    run.log(step=5, odd=math.nan)
                    run.log(step=6, odd=math.inf)
                    run.log(step=7, odd=-math.inf)
                    run.log(step=0, **{"read-small": {"score": 1.0}, "read-wide": {"score": math.nan}}[name])
                ids[name] = run.run_id
                ids[f"{name} here"] = run.id
            with tracker.start_run(run_name="elsewhere", experiment_name="reading-other") as run:
                run.log(loss=-5.0)
            ids["elsewhere"] = run.run_id
    return ids


@pytest.fixture
def tracker(uri: str, runs: dict[str, str]) -> Tracker:
    return Tracker(tracking_uri=uri, experiment_name=EXPERIMENT)


def test_search_gives_mlflows_columns_and_rows(tracker: Tracker, uri: str, runs: dict[str, str]) -> None:
    import mlflow

    mlflow.set_tracking_uri(uri)
    theirs = mlflow.search_runs(experiment_names=[EXPERIMENT], order_by=["metrics.loss ASC"])
    ours = tracker.search_runs(order_by=["metrics.loss ASC"])
    assert isinstance(ours, pd.DataFrame)
    assert set(ours.columns) == set(theirs.columns)
    assert list(ours["run_id"]) == list(theirs["run_id"]) == [runs["read-small"], runs["read-wide"]]
    assert list(ours.columns[:6]) == list(theirs.columns[:6])
    for column in ("start_time", "metrics.loss", "params.lr", "tags.mlflow.runName"):
        assert list(ours[column]) == list(theirs[column])


def test_search_looks_where_it_is_told(tracker: Tracker, runs: dict[str, str]) -> None:
    def names(**where: Any) -> set[str]:
        return {record.run_name for record in tracker.search_runs(output_format="list", **where)}

    assert names() == {"read-small", "read-wide"}
    assert names(filter_string="params.lr = '0.2'") == {"read-wide"}
    assert names(experiment_names=["reading-other"]) == {"elsewhere"}
    assert names(search_all_experiments=True) >= {"read-small", "read-wide", "elsewhere"}
    assert len(tracker.search_runs(max_results=1)) == 1
    with pytest.raises(NotFound, match="did you mean 'reading-other'"):
        tracker.search_runs(experiment_names=["reading-othr"])
    with pytest.raises(Refused):
        tracker.search_runs(filter_string="metrics.loss <<< 3")
    with pytest.raises(CallError, match="not both"):
        tracker.search_runs(experiment_ids=["0"], experiment_names=[EXPERIMENT])


def test_a_run_is_found_by_any_of_its_names(tracker: Tracker, runs: dict[str, str]) -> None:
    whole, ours = runs["read-small"], runs["read-small here"]
    for text in (whole, whole[:12], ours, ours[:10], "read-small", "read-sm"):
        assert tracker.get_run_info(text).run_id == whole, text
    info = tracker.get_run_info(whole)
    assert (info.run_name, info.status, info.params) == ("read-small", "FINISHED", {"lr": "0.1", "seed": "7"})
    assert info.metrics["loss"] == pytest.approx(0.4)
    assert info.metrics["odd"] == -math.inf
    assert info.duration is not None
    assert info.duration >= 0
    with pytest.raises(NotFound, match="fits 2 runs"):
        tracker.get_run_info("read-")
    for unknown in ("never", "f" * 32, 'it\'s "both"', ""):
        with pytest.raises(NotFound):
            tracker.get_run_info(unknown)
    for wrong in (None, 5, info):
        with pytest.raises(CallError, match="named by its name or id, a text, not by a value of"):
            tracker.get_run_info(wrong)  # type: ignore[arg-type]


def test_the_best_run_has_the_best_last_value_and_never_nan(tracker: Tracker, runs: dict[str, str]) -> None:
    assert tracker.best_run("loss").run_id == runs["read-small"]
    assert tracker.best_run("loss", "max").run_id == runs["read-wide"]
    assert tracker.best_run("score", "max").run_id == runs["read-small"]
    assert tracker.best_run("loss", search_all_experiments=True).metrics["loss"] <= -5
    with pytest.raises(NotFound, match="'lossy'"):
        tracker.best_run("lossy")
    with pytest.raises(NotFound):
        tracker.best_run("score", filter_string="params.lr = '0.2'")
    with pytest.raises(CallError, match="'min' or 'max'"):
        tracker.best_run("loss", "lowest")  # type: ignore[arg-type]


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


def test_a_server_has_several_requests_at_once_and_a_database_one(uri: str, runs: dict[str, str]) -> None:
    store = open_reader(uri, "/").store
    mine = threading.get_ident()
    remote = uri.startswith("http")
    both = threading.Barrier(2)

    def ask(job: int) -> tuple[int, bool, str]:
        if remote:
            both.wait(30)  # breaks where the other is not under way
        return job, threading.get_ident() == mine, CALLER.get()

    CALLER.set("ours")  # as MLflow keeps its workspace
    answers = list(in_flight(store, ask, range(6)))
    assert answers == [(job, not remote, "ours") for job in range(6)]


def test_the_first_request_that_fails_ends_the_others(uri: str, runs: dict[str, str]) -> None:
    asked = []

    def ask(job: int) -> None:
        asked.append(job)
        if job == 0:
            raise ValueError("the first one")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="the first one"):
        list(in_flight(open_reader(uri, "/").store, ask, range(400)))
    assert len(asked) < 400


def test_a_comparison_draws_a_panel_for_each_metric_and_a_line_for_each_run(
    tracker: Tracker, runs: dict[str, str], tmp_path: Path
) -> None:
    comparison = tracker.compare_runs(["read-small", "read-wide"])
    figure = comparison.plot(["loss", "score"], save=tmp_path / "runs.png")
    assert (tmp_path / "runs.png").stat().st_size > 10_000
    loss, score = figure.axes
    assert [len(line.get_xdata()) for line in loss.lines] == [5, 5]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["read-small (lr=0.1)", "read-wide (lr=0.2)"]
    assert [bar.get_height() for bar in score.patches] == [1, 0], "one value a run is drawn as a bar"
    assert len(comparison.iloc[:1].plot(x="time").axes[0].lines) == 1, "a part of a comparison can be drawn, too"
    with pytest.raises(ValueError, match="'step' or 'time'"):
        comparison.plot(x="epoch")


def test_a_store_that_is_not_there_is_an_error_and_stays_so(tmp_path: Path) -> None:
    tracker = Tracker(tracking_uri=f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(StoreRefused, match=r"no store .*none\.db yet"):
        tracker.search_runs()
    assert list(tmp_path.iterdir()) == []


def test_passwords_are_in_no_message() -> None:
    tracker = Tracker(tracking_uri="http://ada:secret@127.0.0.1:9")
    with pytest.raises(tailrace.TailraceError) as caught:
        tracker.search_runs()
    assert "secret" not in str(caught.value)


def test_patterns_choose_in_the_order_asked_for() -> None:
    assert matching(["a", "b/x", "b/y"], ["b/*", "a"]) == ["b/x", "b/y", "a"]
    assert matching(["a[0]", "a0"], "a[0]") == ["a[0]"], "a name that is there is no pattern"
