"""How a run comes to be: by MLflow's variables, resumed, refused, and each with the settings that are its own."""

from __future__ import annotations

import concurrent.futures
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from helpers.sdk_tools import Store, eventually, said, tracking
from tailrace import CallError, Settings, SettingsError, Tracker
from tailrace._runs.launch import as_answered, checked_run_id, resumed
from tailrace_agent.ipc.session import Session


def test_mlflows_own_variables_are_honoured(sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(sqlite_uri)
    existing = client.create_run("0", run_name="made before").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", existing)
    monkeypatch.setenv("MLFLOW_RUN_NAME", "named by the environment")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", client.create_experiment("by id"))
    with tracking(sqlite_uri, tracking_uri=None) as sdk:
        assert sdk.get_tracking_uri() == sqlite_uri
        with sdk.start_run() as first:
            sdk.log(a=1)
        assert first.run_id == existing
        assert os.environ["MLFLOW_RUN_ID"] == ""  # not deleted: `requests` walks the variables in other threads
        with sdk.start_run() as second:  # the variable is for the first run of a program, as in MLflow
            sdk.log(a=2)
    assert second.run_id != existing
    assert Store(sqlite_uri, existing).history("a") == [(0, 1.0)]
    assert Store(sqlite_uri, existing).status == "FINISHED"
    store = Store(sqlite_uri, second)
    assert store.tags["mlflow.runName"] == "named by the environment"
    assert store.client.get_experiment(store.run.info.experiment_id).name == "by id"


def test_of_threads_that_begin_at_once_one_resumes_the_run_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "of before")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: resumed(), range(64)))
    assert [run_id for run_id in found if run_id is not None] == ["of before"]


def test_run_id_resumes_a_run(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run(run_name="first", tags={"a": "1"}) as first:
        sdk.log(x=0, step=0)
    again = sdk.start_run(run_id=first.run_id, tags={"b": "2"}, description="again")
    assert again.run_id == first.run_id
    eventually(lambda: Store(sqlite_uri, first).status == "RUNNING")
    sdk.log(x=1, step=1)
    sdk.end_run()
    store = Store(sqlite_uri, first)
    assert store.history("x") == [(0, 0.0), (1, 1.0)]
    assert store.status == "FINISHED"
    assert (store.tags["a"], store.tags["b"], store.tags["mlflow.note.content"]) == ("1", "2", "again")
    assert (store.tags["mlflow.runName"], again.run_name) == ("first", "first")


def test_a_run_that_does_not_exist_costs_one_warning_and_stops_nobody(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = sdk.start_run(run_id="0" * 32, on_error="warn")
    sdk.log(x=1)
    ledger = sdk.flush()
    sdk.end_run()
    assert (ledger.of("metric").dead, ledger.settled) == (1, True)
    assert "0" * 32 in caplog.text
    assert len(said(caplog)) == 1, caplog.text
    assert run.status == "FINISHED"


@pytest.mark.parametrize("name", ["my run", "exp/baseline", "(best)"])
def test_a_name_in_the_place_of_a_run_id_is_an_error_that_names_the_argument_meant(sdk: Tracker, name: str) -> None:
    with pytest.raises(CallError, match="run_name="):
        sdk.start_run(name)
    assert sdk.active_run() is None
    with pytest.raises(MlflowException):  # so it is in MLflow
        MlflowClient(sdk.get_tracking_uri()).get_run(name)


@pytest.mark.parametrize("name", ["baseline", "run-7"])
def test_a_name_that_could_be_an_id_in_some_store_is_a_warning(
    sdk: Tracker, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    sdk.start_run(name, on_error="warn")
    assert f"pass run_name={name!r}" in caplog.text
    sdk.end_run()


def test_of_a_store_of_others_any_text_may_be_an_id() -> None:
    said: list[str] = []
    voice: Any = SimpleNamespace(warn=said.append)
    assert checked_run_id("exp/7", "ours://host/runs", voice) == "exp/7"
    assert len(said) == 1
    assert checked_run_id("0f" * 16, "ours://host/runs", voice) == "0f" * 16
    assert checked_run_id(None, None, voice) is None
    assert len(said) == 1


def test_two_destinations_at_once_each_get_what_is_theirs(sdk: Tracker, sqlite_uri: str, mlflow_server: str) -> None:
    with sdk.start_run() as here:
        sdk.log(x=1)
        with sdk.start_run(nested=True, tracking_uri=mlflow_server, experiment_name="two destinations") as there:
            sdk.log(x=2)
    assert Store(sqlite_uri, here).history("x") == [(0, 1.0)]
    assert Store(mlflow_server, there).history("x") == [(0, 2.0)]


def test_settings_of_one_run_hold_for_that_run(sdk: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    for wrong, message in (
        ({"flush_interval": -1}, "flush_interval.*-1.*allowed"),
        ({"agent": "proces"}, "agent.*'proces'.*process, node, thread or off"),
        ({"flush_intervall": 1}, "flush_intervall.*did you mean flush_interval"),
        ({"tracking_uri": ""}, "tracking_uri"),
    ):
        with pytest.raises(SettingsError, match=message):
            sdk.start_run(**wrong)
    assert sdk.active_run() is None
    with sdk.start_run():
        sdk.log(x=1)
    with sdk.start_run(flush_interval="250ms") as run:
        sdk.log(x=2)
    with sdk.start_run(dir=tmp_path / "elsewhere") as moved:
        sdk.log(x=3)
    assert Store(sqlite_uri, run).history("x") == [(0, 2.0)]
    assert Store(sqlite_uri, moved).history("x") == [(0, 3.0)]
    infos = [session.info.settings for session in Session.all(Settings(dir=str(tmp_path / "tailrace")))]
    assert sorted(settings.flush_interval for settings in infos) == [0.25, 0.5]
    assert len(list((tmp_path / "elsewhere" / "sessions").iterdir())) == 1


@pytest.mark.slow
def test_a_run_goes_where_the_environment_says_when_it_begins(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(sqlite_uri)
    by_id = client.create_experiment("by id")

    def experiment_of(sdk: Tracker) -> str:
        with sdk.start_run() as run:
            return run.info.experiment_id

    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", by_id)
    # Its agent is a process, which has the environment of now.
    with tracking(sqlite_uri, agent="process") as sdk:
        assert experiment_of(sdk) == by_id
        monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
        assert experiment_of(sdk) == "0"


def test_a_password_in_the_place_of_artifacts_is_no_part_of_a_runs_record() -> None:
    info = SimpleNamespace(experiment_id="0", run_name="mine", artifact_uri="sftp://ada:pw@host/0/a/artifacts")
    assert as_answered(info) == {}
    info.artifact_uri = "sftp://ada@host/0/a/artifacts"
    assert as_answered(info) == {"experiment_id": "0", "run_name": "mine", "artifact_uri": info.artifact_uri}
