"""What a call names by id is looked up under `strict=True`, and under that alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from helpers.sdk_tools import tracking
from tailrace import CallError, NotFound, Tracker
from tailrace._api import lookups

NEVER = "f" * 32


def deleted_run(sdk: Tracker, uri: str) -> str:
    with sdk.start_run() as run:
        pass
    MlflowClient(uri).delete_run(run.run_id)
    return run.run_id


def test_a_run_or_parent_that_is_deleted_or_not_there_is_raised_and_no_run_is_active(store_uri: str) -> None:
    with tracking(store_uri, experiment_name="lookups", strict=True) as sdk:
        gone = deleted_run(sdk, store_uri)
        for named in ({"run_id": gone}, {"parent_run_id": gone}):
            with pytest.raises(CallError, match="because it is in the deleted state"):
                sdk.start_run(**named)  # type: ignore[arg-type]
        for named in ({"run_id": NEVER}, {"parent_run_id": NEVER}, {"experiment_id": "987654"}):
            with pytest.raises(NotFound) as caught:
                sdk.start_run(**named)  # type: ignore[arg-type]
            assert isinstance(caught.value, MlflowException)
            assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"
        assert sdk.active_run() is None


def test_an_experiment_that_is_deleted_or_not_there_leaves_the_one_before_in_force(store_uri: str) -> None:
    client = MlflowClient(store_uri)
    kept, gone = (client.create_experiment(f"lookups, {name}") for name in ("kept", "deleted"))
    client.delete_experiment(gone)
    with tracking(store_uri, strict=True) as sdk:
        sdk.set_experiment(experiment_id=kept)
        for named in ({"experiment_id": gone}, {"experiment_name": "lookups, deleted"}):
            with pytest.raises(CallError, match="Cannot set a deleted experiment 'lookups, deleted'"):
                sdk.set_experiment(**named)
        with pytest.raises(NotFound, match="987654"):
            sdk.set_experiment(experiment_id="987654")
        with sdk.start_run() as run:
            assert run.info.experiment_id == kept
        sdk.set_experiment("lookups, one that there is not yet")
        with pytest.raises(CallError, match="must be in the 'active' state"):
            sdk.start_run(experiment_id=gone)


def test_a_parent_is_the_active_run_or_an_error(sqlite_uri: str) -> None:
    with tracking(sqlite_uri, strict=True) as sdk:
        with sdk.start_run() as other:
            pass
        with sdk.start_run() as parent:
            with pytest.raises(CallError, match=f"Current run with UUID {parent.run_id} does not match"):
                sdk.start_run(nested=True, parent_run_id=other.run_id)
            with sdk.start_run(nested=True, parent_run_id=parent.run_id) as child:
                pass
    assert MlflowClient(sqlite_uri).get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def test_nothing_is_asked_by_default_or_where_nothing_is_named(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(lookups, "reader_at", lambda *where: asked.append(where))
    for strict in (False, True):
        with tracking(sqlite_uri, strict=strict, experiment_name="default") as sdk:
            sdk.start_run().end()
            if not strict:
                sdk.set_experiment(experiment_id="7")
                sdk.start_run(NEVER, agent="off").end()
    with tracking(sqlite_uri, strict=True, agent="off") as off:
        off.start_run(NEVER).end()
    assert asked == []


def test_a_store_that_is_away_or_cannot_be_used_is_no_mistake_of_the_call(tmp_path: Path) -> None:
    with tracking("http://127.0.0.1:9", strict=True, exit_timeout=0, end_timeout=0.1) as sdk:
        sdk.set_experiment(experiment_id="7")
        sdk.start_run(NEVER).end()
    (tmp_path / "file").write_text("no directory")
    with tracking(f"sqlite:///{tmp_path}/file/a.db", strict=True, exit_timeout=0, end_timeout=0.1) as sdk:
        sdk.set_experiment("seven")
        sdk.start_run(NEVER).end()
