"""Runs that a program has created in MLflow itself, and has tailrace end: `attach_run(created=True)`."""

from __future__ import annotations

from mlflow import MlflowClient

from helpers.sdk_tools import Store, eventually, tracking


def test_its_end_ends_it(sqlite_uri: str) -> None:
    run_id = MlflowClient(sqlite_uri).create_run("0").info.run_id
    with tracking(sqlite_uri) as tracker:
        run = tracker.attach_run(run_id, created=True)
        assert tracker.active_run() is None
        run.log(step=0, loss=1.0)
        run.end("FAILED")
    stored = Store(sqlite_uri, run_id)
    assert (stored.status, stored.history("loss")) == ("FAILED", [(0, 1.0)])


def test_one_that_is_not_ended_stays_as_it_is_when_its_program_ends(sqlite_uri: str) -> None:
    run_id = MlflowClient(sqlite_uri).create_run("0").info.run_id
    with tracking(sqlite_uri) as tracker:
        tracker.attach_run(run_id, created=True).log(step=0, loss=1.0)
    stored = eventually(lambda: Store(sqlite_uri, run_id))
    assert (stored.status, stored.run.info.end_time, stored.history("loss")) == ("RUNNING", None, [(0, 1.0)])


def test_a_status_that_others_have_given_it_is_left_alone_until_then(sqlite_uri: str) -> None:
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run("0").info.run_id
    client.set_terminated(run_id, "FINISHED")
    with tracking(sqlite_uri) as tracker:
        run = tracker.attach_run(run_id, created=True)
        run.log(step=0, loss=1.0)
        run.flush()
        assert Store(sqlite_uri, run_id).status == "FINISHED"


def test_what_mlflow_has_answered_to_its_creation_need_not_be_asked_for(sqlite_uri: str) -> None:
    info = MlflowClient(sqlite_uri).create_run("0", run_name="mine").info
    with tracking(sqlite_uri) as tracker:
        run = tracker.attach_run(info.run_id, created=True, info=info)
        run.log(step=0, loss=1.0)
        run.set_tag("team", "vision")
        run.end()
        assert (run.info.run_name, run.info.experiment_id) == ("mine", "0")
    stored = Store(sqlite_uri, info.run_id)
    assert (stored.status, stored.history("loss"), stored.run.data.tags["team"]) == ("FINISHED", [(0, 1.0)], "vision")
    assert "tailrace.shared" not in stored.run.data.tags
