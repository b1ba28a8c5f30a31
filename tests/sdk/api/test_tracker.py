"""`start_run` and its kin: what is asked for is what is there, by arguments, settings and MLflow's variables."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import Store, tracking
from tailrace import CallError, Run, SettingsError, Tracker


def test_a_run_is_what_start_run_was_asked_for(sdk: Tracker, sqlite_uri: str) -> None:
    run = sdk.start_run(
        run_name="asked for",
        tags={"team": "blue", "version": 3},
        description="what it is *about*",
        experiment_name="asked",
        params={"lr": 0.1, "model": {"layers": 2}},
    )
    assert isinstance(run, Run)
    assert sdk.active_run() is run
    assert run.run_name == run.info.run_name == "asked for"
    assert run.info.run_id == run.run_id
    assert len(run.run_id) == 32
    assert run.status == run.info.status == "RUNNING"
    assert Store(sqlite_uri, run).status == "RUNNING"
    sdk.end_run()
    assert sdk.active_run() is None
    assert run.info.status == "FINISHED"
    store = Store(sqlite_uri, run)
    experiment = store.client.get_experiment_by_name("asked")
    assert experiment is not None
    assert store.run.info.experiment_id == run.info.experiment_id == experiment.experiment_id
    assert store.run.info.start_time == run.info.start_time
    assert store.run.info.end_time >= store.run.info.start_time
    assert store.status == "FINISHED"
    assert store.params == {"lr": "0.1", "model.layers": "2"}
    assert store.tags["mlflow.note.content"] == "what it is *about*"
    assert store.tags["mlflow.runName"] == "asked for"
    assert (store.tags["team"], store.tags["version"]) == ("blue", "3")
    assert store.tags["mlflow.source.type"] == "LOCAL"
    assert store.tags["tailrace.run"] == run.id
    assert repr(run) == f"<tailrace.Run 'asked for': FINISHED, run_id={run.run_id}>"


def test_a_run_without_a_name_gets_one_from_mlflow(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        assert run.run_name
    assert Store(sqlite_uri, run).tags["mlflow.runName"] == run.run_name


@pytest.mark.slow
def test_the_experiment_is_the_nearest_one_named(
    sdk: Tracker, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(sqlite_uri)
    by_id = client.create_experiment("by id")

    def experiment_of(**arguments: Any) -> str:
        with sdk.start_run(**arguments) as run:
            return str(client.get_experiment(run.info.experiment_id).name)

    assert experiment_of() == "Default"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the environment")
    assert experiment_of() == "of the environment"
    sdk.set_experiment("set")
    assert experiment_of() == "set"
    sdk.set_experiment(experiment_id=by_id)
    assert experiment_of() == "by id"
    assert experiment_of(experiment_name="asked for") == "asked for"
    assert experiment_of(experiment_id=by_id) == "by id"
    number: Any = int(by_id)
    assert experiment_of(experiment_id=number) == "by id"
    assert experiment_of(experiment_id="0") == "Default"
    zero: Any = 0
    assert experiment_of(experiment_id=zero) == "Default"
    for wrong in ({}, {"experiment_name": "a", "experiment_id": "1"}):
        with pytest.raises(CallError, match="experiment_name or experiment_id"):
            sdk.set_experiment(**wrong)
    with pytest.raises(SettingsError, match="experiment_name"):
        sdk.set_experiment(" ")


def test_a_second_start_is_a_clear_error_unless_nested(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as parent:
        with pytest.raises(CallError, match=rf"{parent.run_name}' is active already.*end_run\(\).*nested=True"):
            sdk.start_run()
        with sdk.start_run(nested=True, run_name="child") as child:
            sdk.log(level=1)
            with sdk.start_run(nested=True) as grandchild:
                sdk.log(level=2)
                assert sdk.active_run() is grandchild
            assert sdk.active_run() is child
            sdk.log(level=1)
        assert sdk.active_run() is parent
        sdk.log(level=0)
    with sdk.start_run(nested=True) as orphan:
        pass
    with sdk.start_run(parent_run_id=parent.run_id) as adopted:
        pass
    parents = [
        Store(sqlite_uri, run).tags.get("mlflow.parentRunId") for run in (parent, child, grandchild, orphan, adopted)
    ]
    assert parents == [None, parent.run_id, child.run_id, None, parent.run_id]
    levels = [Store(sqlite_uri, run).history("level") for run in (parent, child, grandchild)]
    assert levels == [[(0, 0.0)], [(0, 1.0), (1, 1.0)], [(0, 2.0)]]
    assert {Store(sqlite_uri, run).status for run in (parent, child, grandchild)} == {"FINISHED"}


def test_a_nested_run_goes_to_the_store_and_experiment_that_its_parent_was_given(
    sdk: Tracker, sqlite_uri: str, tmp_path: Path
) -> None:
    other = f"sqlite:///{shutil.copy(sqlite_uri.removeprefix('sqlite:///'), tmp_path / 'other.db')}"
    with sdk.start_run(tracking_uri=other, experiment_name="elsewhere") as parent:
        with sdk.start_run(nested=True) as child, sdk.start_run(nested=True) as grandchild:
            sdk.log(x=1)
        with sdk.start_run(nested=True, tracking_uri=sqlite_uri) as stranger:
            sdk.log(x=2)
    assert Store(other, grandchild).history("x") == [(0, 1.0)]
    assert Store(other, child).tags["mlflow.parentRunId"] == parent.run_id
    assert len({run.info.experiment_id for run in (parent, child, grandchild)}) == 1
    assert Store(sqlite_uri, stranger).history("x") == [(0, 2.0)]


def test_a_text_that_is_too_long_for_mlflow_is_cut_with_a_word_or_an_error_at_the_call(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run(run_name="n" * 9000, description="d" * 9000) as run:
        sdk.log(step=0, loss=1.0)
    store = Store(sqlite_uri, run)
    assert (store.run.info.run_name, store.tags["mlflow.runName"]) == ("n" * 250, "n" * 250)
    assert "run_name has 9,000 characters; MLflow keeps 250" in caplog.text
    for call in (sdk.set_experiment, lambda name: sdk.start_run(experiment_name=name)):
        with pytest.raises(SettingsError, match=r"experiment_name.*1 to 500 characters"):
            call("e" * 501)


def test_the_trackers_ledger_is_that_of_all_its_runs(sdk: Tracker) -> None:
    with sdk.start_run():
        sdk.log(x=1)
        with sdk.start_run(nested=True):
            sdk.log(x=1, y=2)
            ledger = sdk.flush()
    assert (ledger.of("metric").delivered, ledger.calls) == (3, 2)


@pytest.mark.parametrize("name", ["run_id", "experiment_id", "run_name", "parent_run_id", "experiment_name"])
def test_several_names_are_no_name(off: Tracker, name: str) -> None:
    for given in (["a"], ("a",), {"a": 1}, {"a"}, b"a"):
        with pytest.raises(CallError, match=f"{name} is one name or id, a text, not"):
            off.start_run(**{name: given})  # type: ignore[arg-type]
        assert off.active_run() is None


def test_a_description_that_is_given_twice_is_an_error(off: Tracker) -> None:
    with pytest.raises(CallError, match=r"Description is already set via the tag mlflow.note.content"):
        off.start_run(description="one", tags={"mlflow.note.content": "another"})
    assert off.active_run() is None
    for wanted in ({"description": "one"}, {"tags": {"mlflow.note.content": "one"}, "description": ""}):
        off.start_run(**wanted).end()  # type: ignore[arg-type]


def test_an_experiment_has_what_mlflows_has_before_a_run_of_it(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as sdk:
        experiment = sdk.set_experiment("digits")
        stored = MlflowClient(sqlite_uri).get_experiment(experiment.experiment_id)
        for name in ("name", "experiment_id", "artifact_location", "lifecycle_stage", "creation_time", "tags"):
            assert getattr(experiment, name) == getattr(stored, name), name
        assert sdk.set_experiment(experiment_id=experiment.experiment_id).name == "digits"
        with sdk.start_run() as run:
            assert run.info.experiment_id == experiment.experiment_id


def test_the_last_run_is_the_active_one_or_the_one_that_ended_last(sdk: Tracker, sqlite_uri: str) -> None:
    assert sdk.last_active_run() is None
    with sdk.start_run() as run:
        assert sdk.last_active_run() is run
        sdk.log_param("p", 1)
    assert sdk.last_active_run() is run
    assert (run.data.params, run.info.lifecycle_stage) == ({"p": "1"}, "active")
