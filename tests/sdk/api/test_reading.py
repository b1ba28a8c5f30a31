"""Reading runs back: where is searched, what the answer looks like, and what cannot be asked for."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import pandas as pd
import pytest

from tailrace import CallError, NotFound, Tracker
from tailrace._api.reading import ReadCalls
from tailrace_agent.reading.record import RunRecord

BEGAN = dt.datetime(2024, 1, 2, tzinfo=dt.timezone.utc)


def record(name: str, **own: Any) -> RunRecord:
    facts: dict[str, Any] = {"params": {}, "metrics": {}, "tags": {}, "end_time": None, **own}
    return RunRecord(
        run_id=f"id of {name}", run_name=name, experiment_id="7", status="RUNNING", start_time=BEGAN, url=None,
        artifact_uri=f"/artifacts/{name}", deleted=False, **facts,
    )  # fmt: skip


class Reader:
    """A store that gives the same runs to whoever searches, and keeps what was asked for."""

    name = "the store"

    def __init__(self, *records: RunRecord) -> None:
        self.records, self.searches = records, list[tuple[Any, ...]]()

    def search(self, *asked: Any, **more: Any) -> list[Any]:
        self.searches.append(asked)
        return [type("Found", (), {"data": each, "record": each}) for each in self.records]

    def record(self, run: Any) -> RunRecord:
        found: RunRecord = run.record
        return found

    def experiment_ids(self, names: list[str]) -> list[str]:
        return [f"id of {name}" for name in names]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    reader = Reader(
        record("one", metrics={"loss": 0.5}, params={"lr": "0.1"}, tags={"team": "a"}),
        record("two", metrics={"accuracy": 0.9}, end_time=BEGAN + dt.timedelta(hours=1)),
    )
    monkeypatch.setattr(ReadCalls, "_read", lambda _: reader)
    return reader


def searched(reader: Reader) -> Any:
    return reader.searches[-1][0]


def test_a_frame_has_a_column_for_each_name_that_any_run_has(off: Tracker, reader: Reader) -> None:
    frame = off.search_runs()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == [
        *("run_id", "experiment_id", "status", "artifact_uri", "start_time", "end_time"),
        *("metrics.accuracy", "metrics.loss", "params.lr", "tags.team"),
    ]
    assert math.isnan(frame["metrics.loss"][1])
    assert frame["params.lr"][0] == "0.1"
    assert frame["params.lr"].isna().tolist() == [False, True]
    assert str(frame["end_time"].dt.tz) == "UTC"
    assert frame["end_time"].isna().tolist() == [True, False]


def test_the_frame_of_no_runs_has_its_columns(off: Tracker, reader: Reader) -> None:
    reader.records = ()
    frame = off.search_runs()
    assert isinstance(frame, pd.DataFrame)
    assert (len(frame), list(frame.columns)[:2]) == (0, ["run_id", "experiment_id"])
    assert off.search_runs(output_format="list") == []


def test_what_is_named_is_searched_and_else_the_experiment_that_runs_go_to(off: Tracker, reader: Reader) -> None:
    off.search_runs()
    assert searched(reader) == ["0"]
    off.set_experiment("digits")
    off.search_runs()
    assert searched(reader) == ["id of digits"]
    off.set_experiment(experiment_id="9")
    off.search_runs()
    assert searched(reader) == ["9"]
    off.search_runs(search_all_experiments=True)
    assert searched(reader) is None
    off.search_runs(experiment_names="a", search_all_experiments=True)
    assert searched(reader) == ["id of a"]
    numbers: Any = [3, "4"]
    off.search_runs(numbers)
    assert searched(reader) == ["3", "4"]


def test_what_cannot_be_asked_for_is_an_error_that_says_what_to_write(off: Tracker, reader: Reader) -> None:
    asked: Any
    for asked, said in (
        ({"experiment_ids": "metrics.loss < 1"}, r"write search_runs\(filter_string='metrics.loss < 1'\)"),
        ({"experiment_ids": "digits"}, r"experiment_ids=\['digits'\], or for an experiment's name experiment_names="),
        ({"experiment_ids": ["1"], "experiment_names": ["a"]}, "not both"),
        ({"output_format": "json"}, "'pandas' or 'list', not 'json'"),
    ):
        with pytest.raises(CallError, match=said):
            off.search_runs(**asked)
    with pytest.raises(CallError, match="'min' or 'max', not 'best'"):
        off.best_run("loss", "best")  # type: ignore[arg-type]
    assert reader.searches == []


def test_the_best_run_is_the_first_in_the_order_of_its_metric(off: Tracker, reader: Reader) -> None:
    assert off.best_run("loss").run_name == "one"
    assert reader.searches[-1][2:] == (["metrics.loss ASC"], 1)
    off.best_run("loss", "max")
    assert reader.searches[-1][2] == ["metrics.loss DESC"]


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_metric_that_no_run_has_a_number_for_is_an_error_with_the_nearest_name(
    off: Tracker, reader: Reader, value: float | None
) -> None:
    metrics = {"val_loss": 0.5} if value is None else {"val_loss": 0.5, "val_lost": value}
    reader.records = (record("one", metrics=metrics),)
    with pytest.raises(NotFound, match=r"no run has a number for metric 'val_lost', where the store .*val_loss"):
        off.best_run("val_lost")


def test_what_is_no_name_of_an_experiment_is_one_clear_error(tracked: tuple[Tracker, str]) -> None:
    sdk, _ = tracked
    with pytest.raises(CallError, match=r"one of experiment_names is one name or id, a text, not \['a'\]"):
        sdk.search_runs(experiment_names=[["a"]])  # type: ignore[list-item]
    with pytest.raises(CallError, match=r"one of experiment_ids is one name or id, a text, not \['0'\]"):
        sdk.search_runs(experiment_ids=[["0"]])  # type: ignore[list-item]
