"""A run as users hold it: a context manager, with an address."""

from __future__ import annotations

import pytest

from helpers.sdk_tools import Store, tracking
from tailrace import Run, Tracker
from tailrace_agent.mlflow.links import run_page


class ModelDiverged(Exception):
    pass


@pytest.mark.slow
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


def test_a_run_over_http_has_an_address_to_look_at(mlflow_server: str) -> None:
    with tracking(mlflow_server, experiment_name="runs over http") as sdk:
        with sdk.start_run() as run:
            sdk.log({"a/b": 1})
        assert run.url == run_page(mlflow_server, run.info.experiment_id, run.run_id)
        assert Store(mlflow_server, run).history("a/b") == [(0, 1.0)]


def test_a_block_ends_the_run_that_was_ended_and_resumed_within_it(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        sdk.log(step=0, loss=2.0)
        sdk.end_run()
        again = sdk.start_run(run_id=run.run_id)
        sdk.log(step=1, loss=1.0)
    assert sdk.active_run() is None
    assert again.status == "FINISHED"
    assert Store(sqlite_uri, run).history("loss") == [(0, 2.0), (1, 1.0)]

    def train() -> None:
        with sdk.start_run(run_id=run.run_id):
            sdk.end_run()
            sdk.start_run(run_id=run.run_id)
            raise ModelDiverged

    with pytest.raises(ModelDiverged):
        train()
    assert sdk.active_run() is None
    assert Store(sqlite_uri, run).status == "FAILED"


def test_a_run_has_the_data_that_was_logged_before_it_was_read(sdk: Tracker) -> None:
    with sdk.start_run(tags={"team": "blue"}) as run:
        for step in range(100):
            sdk.log(step=step, loss=1.0 / (step + 1))
        sdk.log_params({"lr": 0.1})
        data = run.data
        assert (data.metrics, data.params, data.tags["team"]) == ({"loss": 0.01}, {"lr": "0.1"}, "blue")
        assert run.info.end_time is None
        assert run.info.artifact_uri.endswith(f"{run.run_id}/artifacts")
    assert run.info.end_time is not None
    assert run.info.end_time >= run.info.start_time
    assert run.info.user_id == run.data.tags["mlflow.user"]


def test_a_run_with_tracking_off_has_no_data(off: Tracker) -> None:
    with off.start_run() as run:
        off.log(step=0, loss=1.0)
    assert run.data == ({}, {}, {})
