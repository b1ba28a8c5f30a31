"""Another tracker's run arrives once, also when it goes on, and from whatever moment the import is tried again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.sdk_tools import Store
from tailrace_agent.errors import Unavailable
from tailrace_agent.ipc.records import Point
from tailrace_agent.reading.foreign.foreign_run import ForeignRun, origin_of
from tailrace_agent.reading.foreign.run_copy import copy_runs
from tailrace_agent.reading.import_ import Imported
from tailrace_agent.reading.reader import Reader, open_reader

BEGAN = 1_700_000_000_000


def points(n: int, *keys: str) -> list[Point]:
    return [Point(key, float(step), BEGAN + step, step) for step in range(n) for key in keys]


def foreign(given: list[Point], **changes: Any) -> ForeignRun:
    facts: dict[str, Any] = {
        "origin": origin_of("test", "one"), "name": "one", "experiment": "elsewhere", "start_time": BEGAN,
        "end_time": BEGAN + 10_000, "state": str(len(given)), "points": lambda: iter(given), **changes,
    }  # fmt: skip
    return ForeignRun(**facts)


def brought(reader: Reader, run: ForeignRun) -> Imported:
    (outcome,) = copy_runs(reader, "test:/here", [run], None, lambda *_: None)
    return outcome


@pytest.fixture
def reader(sqlite_uri: str) -> Reader:
    return open_reader(sqlite_uri, "/", create=True)


@pytest.mark.slow
def test_all_of_a_run_arrives(reader: Reader, sqlite_uri: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("content")
    run = foreign(
        [*points(2500, "loss"), Point("odd", math.nan, BEGAN, 0), Point("odd", math.inf, BEGAN, 1)],
        params={"lr": "0.1", "long": "x" * 7000},
        tags={"team": "a", "what(ever)": "b"},
        files=[(tmp_path / "file.txt", "some/where")],
        texts={"made/notes.txt": b"made"},
        user="ada",
    )
    outcome = brought(reader, run)
    assert (outcome.outcome, outcome.points, outcome.artifacts) == ("imported", 2502, 3)
    found = Store(sqlite_uri, outcome.run_id)
    assert found.history("loss") == [(step, float(step)) for step in range(2500)]
    assert len(found.history("odd")) == 2
    assert (found.params["lr"], len(found.params["long"])) == ("0.1", 6000)
    assert (found.tags["what__ever"], found.tags["tailrace.name.what__ever"]) == ("b", "what(ever)")
    assert found.artifacts() == ["made/notes.txt", "some/where/file.txt", "tailrace/imported_values.json"]
    info = found.run.info
    assert (info.start_time, info.end_time, info.status, info.run_name) == (BEGAN, BEGAN + 10_000, "FINISHED", "one")
    assert brought(reader, run).outcome == "there"


@pytest.mark.slow
def test_a_run_that_has_grown_gets_what_is_new(reader: Reader, sqlite_uri: str) -> None:
    first = brought(reader, foreign(points(1500, "a", "b"), end_time=None, params={"lr": "0.1"}))
    assert Store(sqlite_uri, first.run_id).status == "RUNNING"
    again = brought(reader, foreign(points(1600, "a", "b"), params={"lr": "0.2", "new": "1"}))
    assert (again.run_id, again.outcome, again.points) == (first.run_id, "continued", 200)
    found = Store(sqlite_uri, first.run_id)
    assert found.history("a") == [(step, float(step)) for step in range(1600)]
    assert (found.status, found.params, found.tags["config.lr"]) == ("FINISHED", {"lr": "0.1", "new": "1"}, "0.2")


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 9))
def test_an_import_that_was_cut_off_goes_on_where_it_stopped(
    reader: Reader, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """At the n-th write, once before it was done and once after: the answer is lost."""
    run = foreign([*points(1500, "a", "b(c)"), *points(10, "a")], params={"lr": "1"}, tags={"x!": "y"})
    for after in (False, True):
        with monkeypatch.context() as patch:
            _cut_off(patch, reader, at, after=after)
            try:
                brought(reader, run)
            except Unavailable:
                continue
    outcome = brought(reader, run)
    found = Store(sqlite_uri, outcome.run_id)
    assert found.history("a") == [(step, float(step)) for step in range(1500)]
    assert found.history("b__c") == [(step, float(step)) for step in range(1500)]
    assert found.status == "FINISHED"
    assert len(found.client.search_runs([found.run.info.experiment_id])) == 1


def _cut_off(patch: pytest.MonkeyPatch, reader: Reader, at: int, *, after: bool) -> None:
    count = iter(range(1, 1000))

    def cut(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            due = next(count) == at
            if due and not after:
                raise ConnectionError("cut off")
            answer = method(*args, **kwargs)
            if due:
                raise ConnectionError("cut off")
            return answer

        return call

    for name in ("create_run", "log_batch", "update_run_info"):
        patch.setattr(reader.store, name, cut(getattr(reader.store, name)))


@pytest.mark.slow
def test_points_that_are_twice_in_the_source_are_there_once_and_counted_so(reader: Reader, sqlite_uri: str) -> None:
    twice = [point for point in points(5, "a") for _ in range(2)]
    first = brought(reader, foreign(twice))
    assert first.points == 5
    more = brought(reader, foreign([*twice, *points(7, "a")[5:]]))
    assert more.points == 2
    assert Store(sqlite_uri, first.run_id).history("a") == [(step, float(step)) for step in range(7)]


@pytest.mark.slow
def test_a_file_that_a_run_has_deleted_meanwhile_stops_nothing(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    files = [(tmp_path / "gone", None), (tmp_path / "kept", None)]
    outcome = brought(reader, foreign(points(3, "a"), files=files, end_time=None))
    assert Store(reader.uri, outcome.run_id).artifacts() == ["kept"]


@pytest.mark.slow
def test_points_come_one_by_one(reader: Reader) -> None:
    """A source of any size is never in memory as a whole."""
    most = 0
    held: list[int] = []

    def given() -> Iterator[Point]:
        for point in points(3000, "a"):
            held.append(1)
            yield point

    def shown(name: str, done: int, total: int, what: str) -> None:
        nonlocal most
        most = max(most, len(held) - done)

    list(copy_runs(reader, "test:/here", [foreign([], points=given)], None, shown))
    assert most <= 1000
