"""What people call their runs: names used twice, with quotes and wildcards; names in filters and orders."""

from __future__ import annotations

import json
import logging

import pandas as pd
import pytest

from helpers.stored_runs import ODD_NAMES, SameNames
from tailrace import CallError, NotFound, Tracker
from tailrace_agent.reading.reader import open_reader


@pytest.fixture
def tracker(same_names: SameNames) -> Tracker:
    return Tracker(tracking_uri=same_names.uris[0])


def test_of_two_runs_with_one_name_the_newest_is_read_and_a_warning_tells_of_the_other(
    same_names: SameNames, tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tailrace"):
        assert tracker.get_run_info("base").run_id == same_names.ids[1]
        assert tracker.get_run_info("bas").run_id == same_names.ids[1], "a beginning that means one name"
        assert tracker.metric_history("base", "val/loss")["value"].tolist() == [0.2]
        assert list(tracker.compare_runs(["base", same_names.ids[0]]).index) == [same_names.ids[1], same_names.ids[0]]
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"Taken: {same_names.ids[1][:8]} (FINISHED, " in told
    assert f"Others: {same_names.ids[0][:8]} (FINISHED, " in told
    assert ("lr=0.2" in told, "lr=0.1" in told) == (True, True)


def test_a_beginning_that_fits_several_names_is_an_error_that_tells_them_apart(tracker: Tracker) -> None:
    with pytest.raises(NotFound, match=r'fits 2 runs of .*"it\'s" \(RUNNING, .*give more of an id'):
        tracker.get_run_info("it'")


def test_who_changes_something_gets_an_error_for_a_name_used_twice(same_names: SameNames) -> None:
    with pytest.raises(NotFound, match=r"'base' fits 2 runs of .*lr=0\.2\); .*lr=0\.1\); give more of an id"):
        open_reader(same_names.uris[0], "/").find("base")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_run_is_found_by_a_name_or_its_beginning_whatever_is_in_it(tracker: Tracker, name: str) -> None:
    assert tracker.get_run_info(name).run_name == name
    # The beginning of a name may be that of another one, or of a run's id.
    if not 'it\'s "both"'.startswith(name[:-1]) and not set(name) <= set("0123456789abcdef"):
        assert tracker.get_run_info(name[:-1]).run_name == name
    with pytest.raises(NotFound):
        tracker.get_run_info(name.upper())


def test_a_wildcard_is_no_name(tracker: Tracker) -> None:
    for text in ("%", "_", "r_x", "%e", "ba_e", "run%"):
        with pytest.raises(NotFound, match="has no run"):
            tracker.get_run_info(text)


def test_a_filter_and_an_order_take_names_as_they_are(same_names: SameNames, tracker: Tracker) -> None:
    found = tracker.search_runs(filter_string="metrics.val/loss < 0.2", order_by=["metrics.val/loss DESC"])
    assert isinstance(found, pd.DataFrame)
    assert found["run_id"].tolist() == [same_names.ids[0]]
    assert len(tracker.search_runs(filter_string="metrics.a-b c:d = 2 AND tags.mlflow.runName LIKE 'it%'")) == 2
    ordered = tracker.search_runs(filter_string="params.lr != '9'", order_by="metrics.val/loss DESC")
    assert isinstance(ordered, pd.DataFrame)
    assert ordered["run_id"].tolist() == [same_names.ids[1], same_names.ids[0]]
    assert tracker.best_run("val/loss", "max", filter_string="metrics.val/loss < 0.2").run_id == same_names.ids[0]
    assert tracker.best_run("a-b c:d").metrics == {"a-b c:d": 2.0}
    arguments = ["--filter", "metrics.val/loss < 0.2", "--order-by", "metrics.val/loss", "--json"]
    told = same_names.tailrace("runs", *arguments, "--tracking-uri", same_names.uris[0])
    assert [run["run_id"] for run in json.loads(told.stdout)["runs"]] == [same_names.ids[0]]


def test_a_filter_in_the_place_of_the_ids_is_an_error_that_names_the_argument(tracker: Tracker) -> None:
    with pytest.raises(CallError, match=r"search_runs\(filter_string='metrics\.val/loss < 0\.2'\)"):
        tracker.search_runs("metrics.val/loss < 0.2")  # type: ignore[arg-type]
    with pytest.raises(CallError, match=r"experiment_names=\['Default'\]"):
        tracker.search_runs("Default")  # type: ignore[arg-type]
    assert len(tracker.search_runs(experiment_names="Default")) == len(ODD_NAMES) + 2


def test_a_mistyped_metric_is_answered_with_the_nearest_one(same_names: SameNames, tracker: Tracker) -> None:
    run = same_names.ids[0]
    for ask in (
        lambda: tracker.metric_history(run, "lss"),
        lambda: tracker.compare_runs([run], metrics=["val/los"]),
        lambda: tracker.best_run("val_loss"),
    ):
        with pytest.raises(NotFound, match="did you mean 'val/loss'"):
            ask()
    for command in (["compare", run, "--metric", "loss"], ["runs", "--metric", "vall/loss"]):
        result = same_names.tailrace(*command, "--tracking-uri", same_names.uris[0])
        assert (result.exit_code, "did you mean 'val/loss'?" in result.stderr) == (4, True), result.output
