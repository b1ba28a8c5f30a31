"""Where a frame's runs come from: sessions of this machine, ended ones through their store, or a store."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from tailrace_agent.errors import Unavailable
from tailrace_agent.ipc.session import Session
from tailrace_agent.reading.reader import Reader, open_reader
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.top.courses import Course
from tailrace_agent.top.frame import Shown
from tailrace_agent.top.local import LocalRuns
from tailrace_agent.top.rows import RunRow
from tailrace_agent.top.source import LocalSource, Source, StoreSource
from tailrace_agent.top.stored import Histories, StoredRuns


def _opened(uri: str) -> Reader:
    return open_reader(uri, str(Path.cwd()))


def _run(uri: str) -> str:
    client = MlflowClient(uri)
    run_id = client.create_run("0", run_name="base").info.run_id
    client.log_metric(run_id, "loss", 0.5)
    client.set_terminated(run_id)
    return str(run_id)


def _long_run(uri: str) -> str:
    """Of more points than are read as a whole, one of which is far from the others."""
    client = MlflowClient(uri)
    run_id = client.create_run("0", run_name="long").info.run_id
    for begin in range(0, 6000, 1000):
        points = [Metric("x", 99.0 if n == 1234 else n % 7, 1, n) for n in range(begin, begin + 1000)]
        client.log_batch(run_id, points)
    client.set_terminated(run_id)
    return str(run_id)


def _closer(source: Source, key: str, shown: Shown, every: range = range(0)) -> Course:
    """The course once it is not sampled, and has some steps one by one."""
    deadline = time.monotonic() + 60
    while True:
        course = source.look([key]).courses[key]["x"]
        if not course.sampled and {span.step for span in course.line}.issuperset(every):
            return course
        assert time.monotonic() < deadline
        source.show([shown])  # as after each frame
        time.sleep(0.01)


def test_a_long_run_is_there_at_once_and_its_spike_a_moment_later(sqlite_uri: str, quiet_mlflow: None) -> None:
    run_id = _long_run(sqlite_uri)
    histories = Histories(lambda uri: open_reader(uri, "/", own_process=True))
    source = StoreSource(StoredRuns(histories, sqlite_uri), histories, "there")
    source.look([])
    while not (source.look([run_id]).courses.get(run_id) and source.complete):
        source.step(time.monotonic())
    course = source.look([run_id]).courses[run_id]["x"]
    assert (course.sampled, max(span.high for span in course.line)) == (True, 6.0)
    source.start()
    course = _closer(source, run_id, Shown(run_id, "x", 0, 5999, all=True))
    assert max(span.high for span in course.line) == 99.0
    course = _closer(source, run_id, Shown(run_id, "x", 1200, 1300, all=False), range(1200, 1300))
    assert len(course.line) > 300, "what is not in the window is as fine as it was"
    source.show([])
    assert source.look([run_id]).courses[run_id]["x"].sampled


def test_a_run_of_this_machine_is_zoomed_into_as_far_as_its_store_has_it(ended: RunRow) -> None:
    assert ended.store is not None
    row = msgspec.structs.replace(ended, run_id=_long_run(ended.store))
    local = LocalRuns(load_settings(), lambda session: [row])
    histories = Histories(lambda uri: open_reader(uri, "/", own_process=True))
    source = LocalSource(local, histories, lambda row: True)
    _settle(source, [row.key])
    source.start()
    course = _closer(source, row.key, Shown(row.key, "x", 1230, 1240, all=False))
    assert max(span.high for span in course.line if 1230 <= span.step <= 1240) == 99.0
    assert source.look([row.key]).fault is None


def _settle(source: Source, drawn: list[str]) -> None:
    deadline = time.monotonic() + 60
    source.look(drawn)
    while not source.complete:
        assert time.monotonic() < deadline
        source.step(time.monotonic())


@pytest.fixture
def ended(sqlite_uri: str, quiet_mlflow: None) -> RunRow:
    """A run of a session that no agent holds any more."""
    session = Session.create(load_settings(), cwd="/", program="train.py")
    run_id, console = _run(sqlite_uri), session.dir / "console.log"
    console.write_text("epoch 1\nepoch 2\n")
    key = f"{session.id}/{1:016x}"
    return RunRow(key=key, name="base", state="FINISHED", store=sqlite_uri, run_id=run_id, console=console)


def test_the_metrics_of_an_ended_run_come_from_its_store_once_somebody_looks_at_it(ended: RunRow) -> None:
    local = LocalRuns(load_settings(), lambda session: [ended])
    source = LocalSource(local, Histories(_opened), lambda row: True)
    _settle(source, [])
    assert source.look([]).courses == {}
    _settle(source, [ended.key])
    assert source.changed([ended.key])
    known = source.look([ended.key])
    assert {name: course.last for name, course in known.courses[ended.key].items()} == {"loss": 0.5}
    assert known.tails == {ended.key: ["epoch 1", "epoch 2"]}
    assert known.fault is None
    assert not source.changed([ended.key])


def test_only_the_chosen_runs_are_in_the_list(ended: RunRow) -> None:
    local = LocalRuns(load_settings(), lambda session: [ended])
    assert LocalSource(local, Histories(_opened), lambda row: row.name != "base").look([]).runs == []


def test_a_store_that_is_away_is_a_fault_only_for_those_who_need_it(ended: RunRow) -> None:
    def away(uri: str) -> Reader:
        raise Unavailable("it is away")

    source = LocalSource(LocalRuns(load_settings(), lambda session: [ended]), Histories(away), lambda row: True)
    _settle(source, [ended.key])
    assert source.look([ended.key]).fault == "it is away"
    assert source.look([]).fault is None


def test_a_store_is_asked_in_a_thread_and_what_it_says_appears(sqlite_uri: str, quiet_mlflow: None) -> None:
    run_id = _run(sqlite_uri)
    histories = Histories(_opened)
    source = StoreSource(StoredRuns(histories, sqlite_uri), histories, "there")
    assert source.look([]).place == "there: asking"
    assert not source.complete
    source.start()
    deadline = time.monotonic() + 60
    while not (source.look([run_id]).courses.get(run_id) and source.complete):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    known = source.look([run_id])
    assert ([row.name for row in known.runs], known.place) == (["base"], "there")
    assert known.courses[run_id]["loss"].last == 0.5
