"""Where a frame's runs come from: sessions of this machine, ended ones through their store, or a store."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tailrace_agent.errors import Unavailable
from tailrace_agent.ipc.session import Session
from tailrace_agent.reading.reader import Reader, open_reader
from tailrace_agent.settings.sources import load_settings
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
