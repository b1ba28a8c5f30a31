"""`bulk.tables` writes into SQLite what MLflow's own `log_batch` writes, row by row; servers: `services/`."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException

from helpers.bulk_cases import CASES, by_bulk, by_log_batch, columns, new_run, open_store, refuse_deleted, rows_of
from tailrace_agent.bulk import fitness
from tailrace_agent.bulk.columns import ModelOf
from tailrace_agent.bulk.tables import write
from tailrace_agent.ipc.records import Point

POINT = Point("loss", 0.5, 1_700_000_000_000, 1)


@pytest.fixture
def store(sqlite_uri: str) -> Any:
    return open_store(sqlite_uri)


@pytest.mark.parametrize("case", CASES)
def test_the_rows_are_those_of_log_batch(store: Any, case: str) -> None:
    theirs, ours = new_run(store), new_run(store)
    for batch in CASES[case]:
        by_log_batch(store, theirs, batch)
        by_bulk(store, ours, batch)
    assert rows_of(store, ours) == rows_of(store, theirs)


@pytest.mark.parametrize("case", CASES)
def test_what_was_sent_twice_is_there_once(store: Any, case: str) -> None:
    run = new_run(store)
    for batch in CASES[case]:
        by_bulk(store, run, batch)
    before = rows_of(store, run)
    for batch in CASES[case]:
        by_bulk(store, run, batch)
    assert rows_of(store, run) == before


@pytest.mark.parametrize("first", [by_bulk, by_log_batch])
def test_either_way_goes_on_where_the_other_has_stopped(store: Any, first: Any) -> None:
    second = by_log_batch if first is by_bulk else by_bulk
    mixed, theirs = new_run(store), new_run(store)
    batches = CASES["many batches"]
    for number, batch in enumerate(batches):
        (first, second)[number % 2](store, mixed, batch)
        by_log_batch(store, theirs, batch)
    assert rows_of(store, mixed) == rows_of(store, theirs)


def test_points_of_models_and_datasets_are_stored_as_log_batch_does(store: Any) -> None:
    model_id = store.create_logged_model("0", "m").model_id
    model = ModelOf(model_id, "data", "d1ce")
    theirs, ours = new_run(store), new_run(store)
    for batch in CASES["out of order"]:
        by_log_batch(store, theirs, batch, model)
        by_bulk(store, ours, batch, model)
    assert rows_of(store, ours) == rows_of(store, theirs)
    assert rows_of(store, ours)["logged_model_metrics"]


def test_several_runs_of_one_request_are_all_stored(store: Any) -> None:
    theirs, ours = [new_run(store) for _ in range(3)], [new_run(store) for _ in range(3)]
    batches = CASES["many batches"]
    for run, batch in zip(theirs, batches, strict=False):
        by_log_batch(store, run, batch)
    write(store, [columns(run, batch) for run, batch in zip(ours, batches, strict=False)])
    assert [rows_of(store, run) for run in ours] == [rows_of(store, run) for run in theirs]


def test_concurrent_writers_of_one_run_leave_what_one_writer_leaves(store: Any) -> None:
    together, alone = new_run(store), new_run(store)
    batches = CASES["many batches"]
    # Points that nobody else writes: at a twin that another writer commits meanwhile, `log_batch` gives up.
    own = [[point._replace(step=point.step + 100) for point in batch] for batch in batches]
    with ThreadPoolExecutor(5) as pool:
        jobs = [pool.submit(by_bulk, store, together, batch) for batch in batches * 3]
        jobs += [pool.submit(lambda: [by_log_batch(store, together, batch) for batch in own])]  # type: ignore[list-item]
        for job in jobs:
            job.result(60)
    for batch in (*batches, *own):
        by_bulk(store, alone, batch)
    found, expected = rows_of(store, together), rows_of(store, alone)
    assert found["metrics"] == expected["metrics"]
    # NaN is stored as zero: of two equals the first one stays, and which one that is, is not said.
    assert [row[:4] for row in found["latest_metrics"]] == [row[:4] for row in expected["latest_metrics"]]


REFUSED: dict[str, tuple[str | None, Point]] = {
    "a bad name": (None, Point("loss(train)", 0.5, 1, 1)),
    "a name too long": (None, Point("x" * 251, 0.5, 1, 1)),
    "a time before 1970": (None, Point("loss", 0.5, -1, 1)),
    "no such run": ("f" * 32, POINT),
    "a bad id": ("no id!", POINT),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_log_batch_refuses_is_refused_in_the_same_words_and_nothing_is_stored(store: Any, case: str) -> None:
    run_id, point = REFUSED[case]
    run = run_id or new_run(store)
    answers = []
    for way in (by_log_batch, by_bulk):
        with pytest.raises(MlflowException) as caught:
            way(store, run, [POINT, point] if run_id is None else [point])
        answers.append((caught.value.error_code, _without_place(caught.value.message)))
    assert answers[0] == answers[1]
    assert rows_of(store, run)["metrics"] == []


def _without_place(message: str) -> str:
    return message.replace("metrics[1].", "")


def test_a_deleted_run_is_refused_in_the_same_words_and_with_it_the_others_of_the_request(store: Any) -> None:
    refuse_deleted(store)


def test_a_database_that_was_migrated_is_left_alone(store: Any) -> None:
    run = new_run(store)
    with store.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'feedbeef'"))
    with pytest.raises(fitness.Unfit, match="feedbeef"):
        by_bulk(store, run, [POINT])
    assert rows_of(store, run)["metrics"] == []


def test_a_run_of_another_workspace_is_not_there(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    context = pytest.importorskip("mlflow.utils.workspace_context")
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    store = open_store(sqlite_uri)
    fitness.check_store(store)
    with context.ServerWorkspaceContext("team"):
        here = store.create_experiment("theirs")
        theirs, ours = new_run(store, here), new_run(store, here)
        for batch in CASES["many batches"]:
            by_log_batch(store, theirs, batch)
            by_bulk(store, ours, batch)
        assert rows_of(store, ours) == rows_of(store, theirs)
    answers = []
    for way in (by_log_batch, by_bulk):
        with context.ServerWorkspaceContext("default"), pytest.raises(MlflowException) as caught:
            way(store, ours, [Point("loss", math.pi, 1, 1)])
        answers.append((caught.value.error_code, caught.value.message))
    assert answers[0] == answers[1]
    assert rows_of(store, ours) == rows_of(store, theirs)
