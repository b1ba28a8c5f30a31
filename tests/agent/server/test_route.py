"""`server.route`: what a real server with the app takes, and what it answers to everything else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import requests
import sqlalchemy

from helpers.bulk_cases import CASES, by_log_batch, columns, new_run, rows_of
from tailrace_agent.bulk.columns import BYTES_AT_MOST, POINTS_AT_MOST, ROUTE, ModelOf, encode
from tailrace_agent.ipc.records import Point

POINT = Point("loss", 0.5, 1_700_000_000_000, 1)


def post(server: Any, body: bytes, **headers: str) -> requests.Response:
    return requests.post(f"{server.uri}{ROUTE}", data=body, headers=headers, timeout=60)


def test_it_says_how_many_points_a_request_may_hold(bulk_server: Any) -> None:
    answer = requests.get(f"{bulk_server.uri}{ROUTE}", timeout=60)
    assert (answer.status_code, answer.json()) == (200, {"points": POINTS_AT_MOST})


@pytest.mark.parametrize("case", CASES)
def test_the_rows_are_those_of_log_batch(bulk_server: Any, case: str) -> None:
    store = bulk_server.store
    theirs, ours = new_run(store), new_run(store)
    for batch in CASES[case]:
        by_log_batch(store, theirs, batch)
        answer = post(bulk_server, encode([columns(ours, batch)]))
        assert (answer.status_code, answer.json()) == (200, {"stored": len(batch)}), answer.text
    assert rows_of(store, ours) == rows_of(store, theirs)


def test_a_request_may_have_several_runs_and_models(bulk_server: Any) -> None:
    store = bulk_server.store
    model = ModelOf(store.create_logged_model("0", "m").model_id, "data", "d1ce")
    theirs, ours = [new_run(store), new_run(store)], [new_run(store), new_run(store)]
    batches = CASES["out of order"]
    for run, batch, of in zip(theirs, batches, (None, model), strict=True):
        by_log_batch(store, run, batch, of)
    body = encode([columns(run, batch, of) for run, batch, of in zip(ours, batches, (None, model), strict=True)])
    assert post(bulk_server, body).json() == {"stored": 3}
    assert [rows_of(store, run) for run in ours] == [rows_of(store, run) for run in theirs]


def test_the_words_of_a_refusal_are_those_of_mlflow(bulk_server: Any) -> None:
    store = bulk_server.store
    gone = new_run(store)
    store.delete_run(gone)
    for run, point in ((gone, POINT), ("f" * 32, POINT), (new_run(store), POINT._replace(key="loss(train)"))):
        metric = dict(zip(("key", "value", "timestamp", "step"), point, strict=True))
        theirs = requests.post(
            f"{bulk_server.uri}/api/2.0/mlflow/runs/log-batch", json={"run_id": run, "metrics": [metric]}, timeout=60
        )
        ours = post(bulk_server, encode([columns(run, [point])]))
        assert ours.status_code == theirs.status_code
        assert ours.json()["error_code"] == theirs.json()["error_code"]
        assert ours.json()["message"] == theirs.json()["message"].replace("metrics[0].", "")
        assert rows_of(store, run)["metrics"] == []


def test_the_good_run_of_a_refused_request_is_not_stored(bulk_server: Any) -> None:
    store = bulk_server.store
    run = new_run(store)
    assert post(bulk_server, encode([columns(run, [POINT]), columns("f" * 32, [POINT])])).status_code == 404
    assert rows_of(store, run)["metrics"] == []


@pytest.mark.parametrize("body", [b"", b"{}", b"\xc1", b"\xdd\xff\xff\xff\xff", msgspec.msgpack.encode({"runs": [1]})])
def test_what_is_no_request_of_points_is_said_to_be_none(bulk_server: Any, body: bytes) -> None:
    answer = post(bulk_server, body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")


def test_a_body_that_is_too_large_is_refused_for_its_size(bulk_server: Any) -> None:
    assert post(bulk_server, b"\0" * (BYTES_AT_MOST + 1)).status_code == 413


def test_a_name_of_this_server_that_it_does_not_know_is_refused_as_elsewhere(bulk_server: Any) -> None:
    """MLflow's check against DNS rebinding."""
    assert post(bulk_server, encode([]), Host="evil.example").status_code == 403


def test_on_tables_that_were_not_tested_it_is_as_if_there_were_no_route(bulk_server: Any) -> None:
    store = bulk_server.store
    run = new_run(store)
    statement = "UPDATE alembic_version SET version_num = :version"
    with store.engine.begin() as connection:
        before = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()
        connection.execute(sqlalchemy.text(statement), {"version": "feedbeef"})
    try:
        for answer in (
            requests.get(f"{bulk_server.uri}{ROUTE}", timeout=60),
            post(bulk_server, encode([columns(run, [POINT])])),
        ):
            assert (answer.status_code, answer.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
            assert "feedbeef" in answer.json()["message"]
    finally:
        with store.engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement), {"version": before})
    assert rows_of(store, run)["metrics"] == []
