"""Runs that are read back: searched, and found by what people call them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tailrace
from helpers.stored_runs import EXPERIMENT
from tailrace import CallError, NotFound, Tracker
from tailrace_agent.errors import Refused, StoreAbsent


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
    assert names(experiment_names=["reading-othr", "reading-other"]) == {"elsewhere"}
    with pytest.raises(NotFound, match="did you mean 'reading-other'"):
        tracker.best_run("loss", experiment_names=["reading-othr"])
    with pytest.raises(Refused):
        tracker.search_runs(filter_string="metrics.loss <<< 3")
    with pytest.raises(CallError, match="not both"):
        tracker.search_runs(experiment_ids=["0"], experiment_names=[EXPERIMENT])


def test_a_search_before_the_first_run_finds_nothing_and_says_what_is_not_there(
    store_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(tracking_uri=store_uri)
    tracker.set_experiment("to come")
    found = tracker.search_runs()
    assert (len(found), "run_id" in found.columns) == (0, True)
    assert caplog.messages == [], "it was named for the runs to come"
    for _ in range(2):
        assert tracker.search_runs(experiment_names=["never", None], output_format="list") == []  # type: ignore[list-item]
    # Where other experiments are called nearly so, they are named behind it.
    assert [message.rpartition("has no ")[2].partition(";")[0] for message in caplog.messages] == [
        "experiment 'never'",
        "experiment 'None'",
    ]


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


def test_a_store_that_is_not_there_is_an_error_and_stays_so(tmp_path: Path) -> None:
    tracker = Tracker(tracking_uri=f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(StoreAbsent, match=r"no store .*none\.db yet"):
        tracker.best_run("loss")
    assert len(tracker.search_runs()) == 0
    assert list(tmp_path.iterdir()) == []


def test_passwords_are_in_no_message() -> None:
    tracker = Tracker(tracking_uri="http://ada:secret@127.0.0.1:9")
    with pytest.raises(tailrace.TailraceError) as caught:
        tracker.search_runs()
    assert "secret" not in str(caught.value)
