"""Runs that may go, and never one that somebody still needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList

from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.reading.cleanup import choose, delete
from tailrace_agent.reading.reader import open_reader

_DAY = 86_400_000


class _Runs:
    """A store whose runs are made one by one; which of them would go."""

    def __init__(self, uri: str) -> None:
        self.client, self.reader = MlflowClient(uri), open_reader(uri, "/")
        self.names: dict[str, str] = {}

    def add(self, name: str, status: str = "FINISHED", *, ended: int = 10, loss: bool = True, under: str = "") -> str:
        tags = {"mlflow.parentRunId": under} if under else {}
        run_id = self.client.create_run("0", start_time=(ended - 1) * _DAY, run_name=name, tags=tags).info.run_id
        self.names[run_id] = name
        if loss:
            self.client.log_metric(run_id, "loss", 1.0)
        if status != "RUNNING":
            self.client.set_terminated(run_id, status, ended * _DAY)
        return run_id

    def going(self, **which: Any) -> dict[str, str | None]:
        asked = {"before": None, "statuses": (), "empty": False, "busy": (), **which}
        return {self.names[each.run.info.run_id]: each.kept for each in choose(self.reader, None, **asked)}


@pytest.fixture
def store(sqlite_uri: str) -> _Runs:
    return _Runs(sqlite_uri)


def test_a_run_has_to_fit_every_criterion(store: _Runs) -> None:
    store.add("old", ended=5)
    store.add("young", ended=20)
    store.add("failed", "FAILED", ended=5)
    store.add("empty", ended=5, loss=False)
    store.add("running", "RUNNING", ended=1)
    assert set(store.going(before=6 * _DAY)) == {"old", "failed", "empty"}, "and never one that is running"
    assert set(store.going(before=5 * _DAY)) == set()
    assert set(store.going(before=6 * _DAY, statuses=("FINISHED",))) == {"old", "empty"}
    assert set(store.going(empty=True)) == {"empty"}


def test_a_run_with_a_file_is_not_empty(store: _Runs) -> None:
    store.client.log_text(store.add("file", loss=False), "x", "x.txt")
    assert store.going(empty=True) == {}


def test_a_parent_stays_as_long_as_any_run_below_it(store: _Runs) -> None:
    grandparent = store.add("grandparent", "FAILED")
    parent = store.add("parent", "FAILED", under=grandparent)
    child = store.add("child", "FAILED", under=parent)
    assert set(store.going(statuses=("FAILED",)).values()) == {None}, "they go together"
    kept = store.going(statuses=("FAILED",), busy=(child,))
    assert kept["child"] == "something is on its way to it: `tailrace status`"
    assert kept["parent"] == kept["grandparent"] == f"run {child[:8]} is nested under it, and stays"
    store.add("finished child", under=parent)
    assert None not in (store.going(statuses=("FAILED",))["parent"], store.going(statuses=("FAILED",))["grandparent"])


def test_runs_that_are_nested_in_a_circle_are_looked_at_once(store: _Runs) -> None:
    first = store.add("first", "FAILED")
    second = store.add("second", under=first)
    store.client.set_tag(first, "mlflow.parentRunId", second)
    assert set(store.going(statuses=("FAILED",))) == {"first"}


def test_a_run_of_a_registered_model_stays(store: _Runs) -> None:
    store.client.create_registered_model("kept")
    store.client.create_model_version("kept", "file:///nowhere", store.add("model"))
    assert store.going() == {"model": "it holds a registered model"}


def test_where_the_registry_does_not_answer_nothing_goes(store: _Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise MlflowException("no")

    store.add("old")
    monkeypatch.setattr(MlflowClient, "search_model_versions", fails)
    with pytest.raises(Refused, match="nothing is deleted"):
        store.going()


def test_where_the_list_of_models_has_no_end_nothing_goes(store: _Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def circle(*_: Any, page_token: str | None = None, **__: Any) -> PagedList[Any]:
        return PagedList([], {None: "a", "a": "b"}.get(page_token, "a"))

    store.add("old")
    monkeypatch.setattr(MlflowClient, "search_model_versions", circle)
    with pytest.raises(Unavailable, match="has no end"):
        store.going()


def test_a_run_goes_into_the_bin_or_for_good_with_its_files(store: _Runs) -> None:
    binned, gone = store.add("binned"), store.add("gone")
    store.client.log_text(gone, "x", "x.txt")
    for run_id, permanently in ((binned, False), (gone, True)):
        folder = Path(store.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
        delete(store.reader, store.reader.find(run_id), permanently=permanently)
        assert not permanently or not folder.exists()
    assert store.client.get_run(binned).info.lifecycle_stage == "deleted"
    with pytest.raises(MlflowException, match="not found"):
        store.client.get_run(gone)
