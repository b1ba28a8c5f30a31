"""The calls that a tracker passes on: to the run that is meant, and with MLflow's own arguments."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import Store, warnings
from tailrace import Tracker


def test_synchronous_waits_until_the_store_has_it(sdk: Tracker, sqlite_uri: str) -> None:
    run = sdk.start_run()
    sdk.log_metric("a", 1, synchronous=True)
    assert Store(sqlite_uri, run).history("a") == [(0, 1.0)]
    sdk.log_metrics({"b": 1}, synchronous=True)
    sdk.log_param("p", 1, synchronous=True)
    sdk.set_tag("t", 1, synchronous=True)
    store = Store(sqlite_uri, run)
    assert (store.history("b"), store.params["p"], store.tags["t"]) == ([(0, 1.0)], "1", "1")


def test_run_id_reaches_another_run_and_leaves_its_status_alone(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as earlier:
        sdk.log(x=0)
    with sdk.start_run() as run:
        sdk.log_metric("late", 1, step=4, run_id=earlier.run_id)
        sdk.log_metrics({"late": 2}, step=5, run_id=earlier.run_id)
        sdk.log_params({"p": 1}, run_id=earlier.run_id)
        sdk.log_metric("own", 1, run_id=run.run_id)
        sdk.log_text("hello", "note.txt", run_id=earlier.run_id)
        sdk.log_metric("late", 3, step=6, run_id=earlier.run_id, synchronous=True)
        assert sdk.active_run() is run
    store = Store(sqlite_uri, earlier)
    assert store.history("late") == [(4, 1.0), (5, 2.0), (6, 3.0)]
    assert (store.params, store.status, store.artifacts()) == ({"p": "1"}, "FINISHED", ["note.txt"])
    assert Store(sqlite_uri, run).history("own") == [(0, 1.0)]


def test_a_metric_that_cannot_be_linked_is_said_once_and_arrives(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run() as run:
        for step in range(3):
            sdk.log_metric("a", 1.0, step=step, model_id="m-1")
            sdk.log_metrics({"b": 1.0, "c": 2.0}, step=step, dataset=object())
    store = Store(sqlite_uri, run)
    assert [store.history(key) for key in "abc"] == [[(s, v) for s in range(3)] for v in (1.0, 1.0, 2.0)]
    assert len([text for text in warnings(caplog) if "could not be linked with a model" in text]) == 2


def test_what_is_not_waited_for_can_be_waited_for_later_and_raises_nothing(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run() as run:
        calls: list[Any] = [
            sdk.log_metric("a", 1, synchronous=False),
            sdk.log_metrics({"b": 1}, synchronous=False),
            sdk.log_param("p", 1, synchronous=False),
            sdk.log_params({"q": 2}, synchronous=False),
            sdk.set_tag("t", 1, synchronous=False),
            sdk.set_tags({"u": 1}, synchronous=False),
            sdk.log_param("p", 2, synchronous=False),
        ]
        for call in calls:
            call.wait()
        store = Store(sqlite_uri, run)
    assert store.run.data.metrics == {"a": 1.0, "b": 1.0}
    assert (store.params, store.tags["t"], store.tags["u"]) == ({"p": "1", "q": "2"}, "1", "1")
    assert any("param 'p' is" in text for text in warnings(caplog)), "what MLflow refuses is said, and not raised"
    assert sdk.log_param("r", 3) == 3


def test_a_flush_waits_for_what_was_logged_by_run_id(sdk: Tracker, sqlite_uri: str) -> None:
    foreign = MlflowClient(sqlite_uri).create_run("0").info.run_id
    for n in range(20):
        sdk.log_metric("x", n, step=n, run_id=foreign)
    assert sdk.flush().of("metric").delivered == 20
    assert len(Store(sqlite_uri, foreign).history("x")) == 20
