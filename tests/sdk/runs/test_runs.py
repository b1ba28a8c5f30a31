"""Runs: how they start, nest, live side by side in threads, are resumed, and end."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import Store, eventually, said, tracking
from tailrace import CallError, Run, Settings, SettingsError, Tracker
from tailrace._api.tracker_part import tracker_core_of
from tailrace_agent.ipc.session import Session
from tailrace_agent.mlflow.links import run_page


@pytest.fixture
def sdk(sqlite_uri: str) -> Iterator[Tracker]:
    with tracking(sqlite_uri) as tracker:
        yield tracker


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns in a thread of its own; what it raises is raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend([None, work()])
        except BaseException as error:  # noqa: BLE001 - handed on
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert outcome, "the thread is stuck"
    if outcome[0] is not None:
        raise outcome[0]
    return outcome[1]


def test_the_end_empties_what_children_are_told_and_removes_no_variable_while_others_walk_them(
    sdk: Tracker,
) -> None:
    sdk.start_run()
    names = list(os.environ)  # as `requests` does in any thread, for each request
    assert os.environ["TAILRACE_RUN"]
    assert Path(os.environ["TAILRACE_SESSION"]).is_dir()
    sdk.end_run()
    tracker_core_of(sdk).runs.at_exit()
    assert {name: os.environ[name] for name in names}.keys() >= {"TAILRACE_RUN", "TAILRACE_SESSION"}
    assert os.environ["TAILRACE_RUN"] == os.environ["TAILRACE_SESSION"] == ""


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
        with sdk.start_run() as second:  # the variable is for the first run of a program, as in MLflow
            sdk.log(a=2)
    assert second.run_id != existing
    assert Store(sqlite_uri, existing).history("a") == [(0, 1.0)]
    assert Store(sqlite_uri, existing).status == "FINISHED"
    store = Store(sqlite_uri, second)
    assert store.tags["mlflow.runName"] == "named by the environment"
    assert store.client.get_experiment(store.run.info.experiment_id).name == "by id"


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


def test_ending_a_parent_first_leaves_the_child_as_it_is(sdk: Tracker, sqlite_uri: str) -> None:
    parent = sdk.start_run()
    child = sdk.start_run(nested=True)
    parent.end()
    sdk.log(x=1)
    assert sdk.active_run() is child
    assert Store(sqlite_uri, child).status == "RUNNING"
    sdk.end_run()
    assert sdk.active_run() is None
    assert Store(sqlite_uri, child).history("x") == [(0, 1.0)]
    sdk.end_run()  # without a run, nothing happens, as in MLflow


def test_runs_of_several_threads_never_get_into_each_others(sdk: Tracker, sqlite_uri: str) -> None:
    workers, steps = 4, 50
    barrier = threading.Barrier(workers)
    runs: dict[int, Run] = {}

    def work(worker: int) -> None:
        barrier.wait(20)
        with sdk.start_run(run_name=f"worker {worker}") as run:
            runs[worker] = run
            for step in range(steps * (worker + 1)):  # each ends at another time
                sdk.log(worker=worker, step=step)
                run.log(worker_too=worker, step=step)
            sdk.set_tag("worker", worker)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for worker, run in runs.items():
        store = Store(sqlite_uri, run)
        expected = {(step, float(worker)) for step in range(steps * (worker + 1))}
        assert set(store.history("worker")) == set(store.history("worker_too")) == expected
        assert (store.status, store.tags["worker"]) == ("FINISHED", str(worker))
        assert "mlflow.parentRunId" not in store.tags


def test_the_end_of_one_threads_run_leaves_the_others_alone(sdk: Tracker, sqlite_uri: str) -> None:
    mine = sdk.start_run()
    started, ended = threading.Event(), threading.Event()
    theirs: list[Run] = []

    def other() -> None:
        theirs.append(sdk.start_run())
        started.set()
        ended.wait(20)
        sdk.log(after="the end of the other".count("e"), step=1)
        sdk.end_run("FAILED")

    thread = threading.Thread(target=other)
    thread.start()
    started.wait(20)
    sdk.log(mine=1, step=1)
    sdk.end_run()
    ended.set()
    thread.join(30)
    assert (Store(sqlite_uri, mine).status, Store(sqlite_uri, theirs[0]).status) == ("FINISHED", "FAILED")
    assert Store(sqlite_uri, mine).metrics() == {"mine": [(1, 1.0)]}
    assert Store(sqlite_uri, theirs[0]).metrics() == {"after": [(1, 4.0)]}


def test_a_helper_thread_logs_to_the_main_threads_run_and_may_end_it(sdk: Tracker, sqlite_uri: str) -> None:
    run = sdk.start_run()
    in_thread(lambda: sdk.log(helper=1, step=1))
    in_thread(lambda: sdk.log_param("p", 1))
    assert in_thread(sdk.active_run) is run
    assert in_thread(lambda: sdk.start_run(run_name="its own").end()) is None
    with sdk.start_run(nested=True) as child:
        in_thread(lambda: sdk.log(helper=2, step=2))
    sdk.log(main=1, step=3)
    in_thread(lambda: sdk.end_run("KILLED"))
    assert sdk.active_run() is None
    store = Store(sqlite_uri, run)
    assert (store.status, store.params) == ("KILLED", {"p": "1"})
    assert store.metrics() == {"helper": [(1, 1.0)], "main": [(3, 1.0)]}
    assert Store(sqlite_uri, child).metrics() == {"helper": [(2, 2.0)]}
    sdk.log(again=1)  # as in MLflow, a call without a run starts one
    fresh = sdk.active_run()
    assert fresh is not None
    assert fresh is not run
    sdk.end_run()
    assert Store(sqlite_uri, fresh).metrics() == {"again": [(0, 1.0)]}


def test_calls_on_a_run_that_has_ended_still_reach_it(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        run.log(x=1, step=1)
    run.log(x=2, step=2)
    run.log_metric("y", 1)
    run.set_tag("late", "yes")
    assert run.flush().settled
    run.end("FAILED")  # it has ended already, and stays as it is
    store = Store(sqlite_uri, run)
    assert store.history("x") == [(1, 1.0), (2, 2.0)]
    assert (store.tags["late"], store.status) == ("yes", "FINISHED")


def test_run_id_resumes_a_run(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run(run_name="first", tags={"a": "1"}) as first:
        sdk.log(x=0, step=0)
    resumed = sdk.start_run(run_id=first.run_id, tags={"b": "2"}, description="again")
    assert resumed.run_id == first.run_id
    eventually(lambda: Store(sqlite_uri, first).status == "RUNNING")
    sdk.log(x=1, step=1)
    sdk.end_run()
    store = Store(sqlite_uri, first)
    assert store.history("x") == [(0, 0.0), (1, 1.0)]
    assert store.status == "FINISHED"
    assert (store.tags["a"], store.tags["b"], store.tags["mlflow.note.content"]) == ("1", "2", "again")
    assert (store.tags["mlflow.runName"], resumed.run_name) == ("first", "first")


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


@pytest.mark.parametrize(
    ("given", "expected"),
    [("FINISHED", "FINISHED"), ("FAILED", "FAILED"), ("KILLED", "KILLED"), ("failed", "FAILED"), ("DONE", "FINISHED")],
)
def test_a_run_ends_as_it_was_told(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture, given: Any, expected: str
) -> None:
    run = sdk.start_run()
    sdk.end_run(given)
    assert Store(sqlite_uri, run).status == run.status == expected
    assert ("is none of FINISHED, FAILED, KILLED" in caplog.text) is (given == "DONE")


class ModelDiverged(Exception):
    pass


def test_leaving_a_with_block_by_an_exception_fails_the_run_and_says_why(sdk: Tracker, sqlite_uri: str) -> None:
    def leave(error: BaseException) -> Run:
        run = sdk.start_run()

        def train() -> None:
            with run:
                sdk.log(x=1)
                raise error

        with pytest.raises(type(error)):
            train()
        assert sdk.active_run() is None
        return run

    expected = {
        ModelDiverged("loss is nan at step 7"): ("ModelDiverged", "loss is nan at step 7"),
        KeyboardInterrupt(): ("KeyboardInterrupt", ""),
        ValueError("x" * 50_000): ("ValueError", "x" * 5000),
        SystemExit(1): ("SystemExit", "1"),
        SystemExit("no data"): ("SystemExit", "no data"),
        ValueError("\udc80"): ("ValueError", "\\udc80"),
    }
    for error, tags in expected.items():
        store = Store(sqlite_uri, leave(error))
        assert store.status == "FAILED"
        assert (store.tags["error.type"], store.tags.get("error.message", "")) == tags
        assert store.history("x") == [(0, 1.0)]
    for error in (SystemExit(0), SystemExit(None)):
        store = Store(sqlite_uri, leave(error))
        assert store.status == "FINISHED"
        assert "error.type" not in store.tags


def test_tags_are_strings_and_the_last_value_wins(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no str today")

    with sdk.start_run(tags={"a": 1}) as run:
        sdk.set_tag("b", 2)
        sdk.set_tags({"c": 3.5, "a": "changed", 5: None})
        sdk.set_tag("b", "changed")
        sdk.set_tags({f"many {n}": n for n in range(250)})
        sdk.set_tag("hostile", Hostile())
        not_a_mapping: Any = 3
        sdk.set_tags(not_a_mapping)
        sdk.set_tag("\udc80", "\udc81")
        sdk.set_tag("d", "\udc82")
    tags = Store(sqlite_uri, run).tags
    assert (tags["a"], tags["b"], tags["c"], tags["5"], tags["d"]) == ("changed", "changed", "3.5", "None", "\\udc82")
    assert all(tags[f"many {n}"] == str(n) for n in range(250))
    assert "no str today" in caplog.text
    assert "int" in caplog.text


def test_a_run_over_http_has_an_address_to_look_at(mlflow_server: str) -> None:
    with tracking(mlflow_server, experiment_name="runs over http") as sdk:
        with sdk.start_run() as run:
            sdk.log({"a/b": 1})
        assert run.url == run_page(mlflow_server, run.info.experiment_id, run.run_id)
        assert Store(mlflow_server, run).history("a/b") == [(0, 1.0)]


def test_two_destinations_at_once_each_get_what_is_theirs(sdk: Tracker, sqlite_uri: str, mlflow_server: str) -> None:
    with sdk.start_run() as here:
        sdk.log(x=1)
        with sdk.start_run(nested=True, tracking_uri=mlflow_server, experiment_name="two destinations") as there:
            sdk.log(x=2)
    assert Store(sqlite_uri, here).history("x") == [(0, 1.0)]
    assert Store(mlflow_server, there).history("x") == [(0, 2.0)]


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


def test_settings_of_one_run_hold_for_that_run(sdk: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    for wrong, message in (
        ({"flush_interval": -1}, "flush_interval.*-1.*allowed"),
        ({"agent": "proces"}, "agent.*'proces'.*process, thread or off"),
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


def test_an_uncaught_exception_elsewhere_says_nothing_about_a_run_that_goes_on(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the exit of a program a failed run is told apart from a finished one by `sys.last_value`."""
    for error, status in ((None, "FINISHED"), (ModelDiverged("boom"), "FAILED")):
        with tracking(sqlite_uri) as sdk:
            monkeypatch.setattr(sys, "last_value", error, raising=False)
            monkeypatch.setattr(sys, "last_exc", error, raising=False)
            run = sdk.start_run()
            sdk.log(x=time.time())
        assert Store(sqlite_uri, run).status == status


def test_the_message_of_an_error_keeps_no_password(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as sdk, sdk.start_run() as run:
        run.fail(ConnectionError("cannot reach postgresql://ada:pa55word@host/db with --password pa55word"))
    message = Store(sqlite_uri, run).tags["error.message"]
    assert message == "cannot reach postgresql://ada:***@host/db with --password ***"
