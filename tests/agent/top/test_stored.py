"""What a store has of runs, as it is read piece by piece."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from tailrace_agent.errors import Unavailable
from tailrace_agent.reading.read_store import Thinned
from tailrace_agent.reading.reader import Reader, open_reader
from tailrace_agent.top.stored import Histories, StoredRuns, Wanted


@pytest.fixture
def uri(sqlite_uri: str, quiet_mlflow: None) -> str:
    return sqlite_uri


@pytest.fixture
def run_id(uri: str) -> str:
    client = MlflowClient(uri)
    run = client.create_run("0", run_name="base")
    points = [Metric("loss", 1.0 / (n + 1), 1_700_000_000_000 + n, n) for n in range(300)]
    client.log_batch(run.info.run_id, [*points, Metric("system/cpu", 50.0, 1_700_000_000_000, 0)])
    return str(run.info.run_id)


def _opened(uri: str) -> Reader:
    return open_reader(uri, str(Path.cwd()))


def _until(step: Callable[[float], float], done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        step(time.monotonic())


def test_the_metrics_of_a_run_come_one_by_one_those_of_the_program_first(uri: str, run_id: str) -> None:
    histories = Histories(_opened)
    assert histories.idle, "nothing is wanted"
    histories.want([Wanted("a", uri, run_id, live=False)])
    assert not histories.idle
    _until(histories.step, lambda: bool(histories.courses("a")[0]))
    assert list(histories.courses("a")[0]) == ["loss"]
    _until(histories.step, lambda: histories.idle)
    courses, left_out = histories.courses("a")
    assert (list(courses), left_out) == (["loss", "system/cpu"], 0)
    assert (courses["loss"].last, courses["loss"].last_step) == (1 / 300, 299)
    assert histories.fault is None


def test_of_a_run_that_goes_on_what_has_come_since_is_read_and_no_more(
    uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int | None]] = []
    thinned = Reader.thinned

    def noted(self: Reader, run: str, key: str, most: int, first: int | None = None) -> Thinned:
        asked.append((key, first))
        return thinned(self, run, key, most, first)

    monkeypatch.setattr(Reader, "thinned", noted)
    histories = Histories(_opened)
    histories.want([Wanted("a", uri, run_id, live=True)])
    _until(histories.step, lambda: histories.idle)
    MlflowClient(uri).log_metric(run_id, "loss", 7.0, step=500)
    version, later = histories.version, time.monotonic() + 10
    while histories.version == version:
        later = histories.step(later) + 1e-3
    assert histories.courses("a")[0]["loss"].last == 7.0
    assert asked == [("loss", None), ("system/cpu", None), ("loss", 300)]


def test_the_best_value_that_a_run_has_noted_is_drawn_though_its_point_was_not_read(
    uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(uri)
    client.log_metric(run_id, "loss.best", -5.0)
    client.log_metric(run_id, "loss.best_step", 123)
    histories = Histories(_opened)
    histories.want([Wanted("a", uri, run_id, live=False)])
    _until(histories.step, lambda: histories.idle)
    courses = histories.courses("a")[0]
    assert min(span.low for span in courses["loss"].line) == -5.0
    assert (courses["loss"].last_step, list(courses)) == (299, ["loss", "system/cpu"])


def test_a_store_that_is_away_is_said_and_asked_again_later() -> None:
    calls = []

    def away(uri: str) -> Reader:
        calls.append(uri)
        raise Unavailable(f"{uri} is away")

    histories = Histories(away)
    histories.want([Wanted("a", "http://a", "1" * 32, live=True)])
    assert histories.step(10.0) == 15.0
    assert histories.fault == "http://a is away"
    assert histories.idle
    stored = StoredRuns(histories, "http://a")
    stored.step(0.0)
    assert (stored.fault, stored.rows, stored.searched) == ("http://a is away", [], False)


def test_runs_are_found_by_filter_or_name_the_newest_first(uri: str, run_id: str) -> None:
    client = MlflowClient(uri)
    other = client.create_run("0", run_name="wide")
    client.set_terminated(other.info.run_id)
    for wanted, names in (
        ({}, ["wide", "base"]),
        ({"filter_": "metrics.loss > 0"}, ["base"]),
        ({"names": ["wide"]}, ["wide"]),
    ):
        stored = StoredRuns(Histories(_opened), uri, **wanted)  # type: ignore[arg-type]
        _until(stored.step, lambda stored=stored: stored.searched)
        assert [row.name for row in stored.rows] == names
    (row,) = (row for row in stored.rows if row.name == "wide")
    assert (row.live, row.state, row.step) == (False, "FINISHED", None)
    stored = StoredRuns(Histories(_opened), uri)
    _until(stored.step, lambda: stored.searched)
    assert {row.name: (row.live, row.step) for row in stored.rows} == {"wide": (False, None), "base": (True, 299)}


def test_it_is_known_why_a_list_is_empty_and_whether_it_is_cut(uri: str, run_id: str) -> None:
    for wanted, empty, more in (
        ({}, "no runs in this store yet", False),
        ({"limit": 1}, "no runs in this store yet", True),
        ({"filter_": "metrics.loss > 9"}, "no run fits the filter", False),
        ({"experiments": ["Default"]}, "no runs in these experiments yet", False),
        ({"names": ["base"], "limit": 1}, "no runs in this store yet", False),
    ):
        stored = StoredRuns(Histories(_opened), uri, **wanted)  # type: ignore[arg-type]
        assert stored.empty == "not known yet"
        _until(stored.step, lambda stored=stored: stored.searched)
        assert (stored.empty, stored.more) == (empty, more)
