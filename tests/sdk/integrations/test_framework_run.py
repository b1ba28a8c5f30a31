"""`integrations/framework_run`: which run a framework's values go to, and how that one ends."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest

from helpers.least_tracker import LeastTracker
from helpers.sdk_tools import Store, eventually, named, said
from tailrace import CallError, Tracker
from tailrace.integrations.framework_run import FrameworkRun
from tailrace_agent.ledger import Counts, Ledger


def runs(uri: str) -> list[Store]:
    found = mlflow.MlflowClient(uri).search_runs(["0"], order_by=["attributes.start_time ASC"])
    return [Store(uri, run.info.run_id) for run in found]


@pytest.fixture
def mlflows(sqlite_uri: str) -> Iterator[Any]:
    """A run that MLflow itself has begun."""
    mlflow.set_tracking_uri(sqlite_uri)
    with mlflow.start_run() as run:
        yield run


def test_it_joins_the_active_run_and_leaves_it_open(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        framework = FrameworkRun("keras", sdk)
        framework.begin().log({"loss": 0.5}, step=3)
        framework.end("FAILED")
        assert run.status == "RUNNING"
        framework.run.log({"loss": 0.25}, step=4)
    (store,) = runs(sqlite_uri)
    assert (store.status, store.metrics()) == ("FINISHED", {"loss": [(3, 0.5), (4, 0.25)]})


def test_without_one_it_begins_its_own_that_ends_and_takes_what_is_measured_later(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    framework = FrameworkRun("keras", sdk, "own", {"team": "a"})
    framework.begin().log({"loss": 0.5}, step=0)
    framework.end()
    framework.run.log({"test_loss": 0.7}, step=0)
    framework.run.flush()
    (store,) = runs(sqlite_uri)
    assert (store.status, store.tags["team"], store.tags["mlflow.runName"]) == ("FINISHED", "a", "own")
    assert store.metrics() == {"loss": [(0, 0.5)], "test_loss": [(0, 0.7)]}
    assert said(caplog) == []


def test_what_is_measured_before_a_training_is_in_its_run(sdk: Tracker, sqlite_uri: str) -> None:
    framework = FrameworkRun("transformers", sdk)
    framework.run.log({"eval_loss": 0.9}, step=0)
    framework.begin("named late").log({"loss": 0.5}, step=1)
    framework.end()
    (store,) = runs(sqlite_uri)
    assert sorted(store.metrics()) == ["eval_loss", "loss"]


def test_a_second_training_is_a_second_run(sdk: Tracker, sqlite_uri: str) -> None:
    framework = FrameworkRun("keras", sdk)
    for value in (1.0, 2.0):
        framework.begin().log({"loss": value}, step=0)
        framework.end()
    assert [store.history("loss") for store in runs(sqlite_uri)] == [[(0, 1.0)], [(0, 2.0)]]


def test_a_training_that_nobody_ended_is_failed_and_the_next_one_does_not_join_it(
    sdk: Tracker, sqlite_uri: str
) -> None:
    first = FrameworkRun("keras", sdk)
    first.begin().log({"loss": 1.0}, step=0)
    second = FrameworkRun("keras", sdk)
    second.begin().log({"loss": 2.0}, step=0)
    second.begin().log({"loss": 3.0}, step=0)
    second.end()
    found = runs(sqlite_uri)
    assert [store.history("loss") for store in found] == [[(0, 1.0)], [(0, 2.0)], [(0, 3.0)]]
    assert [store.status for store in found] == ["FAILED", "FAILED", "FINISHED"]


def test_a_training_inside_of_another_frameworks_joins_it(sdk: Tracker, sqlite_uri: str) -> None:
    search, inner = FrameworkRun("scikit-learn", sdk), FrameworkRun("xgboost", sdk)
    search.begin()
    inner.begin().log({"loss": 1.0}, step=0)
    inner.end()
    search.end()
    (store,) = runs(sqlite_uri)
    assert (store.status, store.history("loss")) == ("FINISHED", [(0, 1.0)])


@pytest.mark.slow
def test_a_run_ends_with_the_callback_that_has_begun_it(sdk: Tracker, sqlite_uri: str) -> None:
    framework = FrameworkRun("catboost", sdk, left=lambda: "FINISHED")
    run = framework.begin()
    assert (run.status, sdk.active_run()) == ("RUNNING", run)
    del framework
    gc.collect()
    assert (run.status, sdk.active_run()) == ("FINISHED", None)


def test_an_evaluation_alone_has_not_failed(sdk: Tracker, sqlite_uri: str) -> None:
    for _ in range(2):  # the first ends when the second begins
        framework = FrameworkRun("transformers", sdk)
        framework.run.log({"eval_loss": 0.9}, step=0)
    del framework
    gc.collect()
    eventually(lambda: [store.status for store in runs(sqlite_uri)] == ["FINISHED", "FINISHED"])


def test_what_is_measured_after_the_end_waits_for_a_store_that_was_away(
    sdk: Tracker, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    framework = FrameworkRun("lightning", sdk, "late")
    run = framework.begin()
    with monkeypatch.context() as patch:
        patch.setattr(type(run), "ledger", lambda self: Ledger(kinds={"metric": Counts(accepted=1)}))
        framework.end()
        assert framework.run is run
    framework.run.log({"test_loss": 0.5}, step=3)
    framework.run.flush()
    assert named(sqlite_uri, "late").history("test_loss") == [(3, 0.5)]


def test_trainings_beside_one_another_are_runs_of_their_own(sdk: Tracker, sqlite_uri: str) -> None:
    here = FrameworkRun("xgboost", sdk)
    here.begin()

    def train() -> None:
        there = FrameworkRun("xgboost", sdk)
        there.begin().log({"loss": 2.0}, step=0)
        there.end()

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    here.run.log({"loss": 1.0}, step=0)
    here.end()
    assert [store.history("loss") for store in runs(sqlite_uri)] == [[(0, 1.0)], [(0, 2.0)]]


def test_a_run_of_mlflows_own_is_joined_and_left_to_it(sdk: Tracker, mlflows: Any, sqlite_uri: str) -> None:
    framework = FrameworkRun("keras", sdk)
    framework.begin().log({"loss": 0.5}, step=1)
    framework.end()
    store = Store(sqlite_uri, mlflows.info.run_id)
    assert (store.status, store.history("loss")) == ("RUNNING", [(1, 0.5)])


def test_a_run_may_be_given(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as outer, sdk.start_run(nested=True):
        framework = FrameworkRun("keras", outer)
        assert framework.begin() is outer
        framework.end()
        assert outer.status == "RUNNING"
        assert framework.below("trial") is None


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(ValueError("it diverges"), "FAILED", "it diverges"), (KeyboardInterrupt(), "KILLED", None)],
)
def test_an_error_is_how_it_ends(
    sdk: Tracker, sqlite_uri: str, error: BaseException, status: str, message: str | None
) -> None:
    framework = FrameworkRun("lightning", sdk, "failing")
    framework.begin()
    framework.end(error=error)
    store = named(sqlite_uri, "failing")
    assert (store.status, store.tags["error.type"]) == (status, type(error).__name__)
    assert store.tags.get("error.message") == message


@pytest.mark.slow
def test_a_copy_has_the_same_run_and_does_not_end_it(sdk: Tracker, sqlite_uri: str) -> None:
    framework = FrameworkRun("xgboost", sdk)
    run = framework.begin()
    for twin in (copy.deepcopy(framework), pickle.loads(pickle.dumps(framework))):
        twin.run.log({"loss": 0.5})
        twin.end()
        del twin
    gc.collect()
    assert run.status == "RUNNING"
    framework.end()
    (store,) = runs(sqlite_uri)
    assert store.history("loss") == [(0, 0.5), (1, 0.5)]


def test_the_module_is_a_tracker_and_can_be_pickled() -> None:
    import tailrace

    pickle.loads(pickle.dumps(FrameworkRun("xgboost", tailrace)))


def test_any_tracker_will_do_and_what_it_lacks_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    tracker = LeastTracker()
    framework = FrameworkRun("keras", tracker, "least")
    framework.begin().log({"loss": 0.5}, step=0)
    for _ in range(2):
        framework.call("log_image", None, key="sample")
    framework.end()
    assert (tracker.started, tracker.logged, tracker.ended) == (["least"], [({"loss": 0.5}, 0)], ["FINISHED"])
    assert said(caplog) == ["tailrace: LeastTracker has no log_image(): what it is for is left out"]


def test_what_is_no_tracker_is_a_clear_error() -> None:
    with pytest.raises(CallError, match=r"tracker is str, which has no log\(\)"):
        FrameworkRun("keras", "http://localhost:5000")
