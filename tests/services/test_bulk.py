"""The bulk way into PostgreSQL and MySQL, with two drivers each, and the bulk route behind MLflow's basic auth."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlMetric

from helpers.bulk_cases import CASES, by_bulk, by_log_batch, columns, new_run, open_store, refuse_deleted, rows_of
from helpers.databases import copy_database
from helpers.entry_points import lay_entry_points
from helpers.serving import serving
from services.backends import fresh_database
from services.mysql import MySQL
from tailrace_agent.bulk.columns import ROUTE, ModelOf, encode
from tailrace_agent.bulk.fitness import check_store
from tailrace_agent.bulk.rows import rows_of as tables_rows
from tailrace_agent.bulk.tables import write
from tailrace_agent.errors import Refused
from tailrace_agent.ipc.records import Point
from tailrace_agent.sinks.mlflow import open_sink

pytestmark = pytest.mark.services

POINT = Point("loss", 0.5, 1_700_000_000_000, 1)


@pytest.fixture(scope="module", params=["postgresql+psycopg2", "postgresql+psycopg", "mysql+pymysql", "mysql+mysqldb"])
def store(request: pytest.FixtureRequest) -> Any:
    kind, plus, driver = request.param.partition("+")
    if driver == "mysqldb":
        pytest.importorskip("MySQLdb", reason="mysqlclient, which has to be compiled, is not installed")
    found = open_store(fresh_database(request.getfixturevalue(f"{kind}_server"), plus + driver))
    check_store(found)
    return found


@pytest.fixture(scope="module")
def folding(mysql_server: MySQL) -> Any:
    """A store whose database takes keys for one that differ in case, in accents or in a space at the end."""
    return open_store(fresh_database(mysql_server, "+pymysql"))


@pytest.mark.parametrize("case", CASES)
def test_the_rows_in_a_database_server_are_those_of_log_batch(store: Any, case: str) -> None:
    theirs, ours = new_run(store), new_run(store)
    for batch in CASES[case]:
        by_log_batch(store, theirs, batch)
        by_bulk(store, ours, batch)
    assert rows_of(store, ours) == rows_of(store, theirs)
    for batch in CASES[case]:
        by_bulk(store, ours, batch)
    assert rows_of(store, ours) == rows_of(store, theirs), "sent twice"


@pytest.mark.parametrize("first", [by_bulk, by_log_batch])
def test_either_way_goes_on_where_the_other_has_stopped(store: Any, first: Any) -> None:
    second = by_log_batch if first is by_bulk else by_bulk
    mixed, theirs = new_run(store), new_run(store)
    for number, batch in enumerate(CASES["many batches"]):
        (first, second)[number % 2](store, mixed, batch)
        by_log_batch(store, theirs, batch)
    assert rows_of(store, mixed) == rows_of(store, theirs)


def test_points_of_models_are_stored_as_log_batch_does(store: Any) -> None:
    model = ModelOf(store.create_logged_model("0", "m").model_id, "data", "d1ce")
    theirs, ours = new_run(store), new_run(store)
    for batch in CASES["out of order"]:
        by_log_batch(store, theirs, batch, model)
        by_bulk(store, ours, batch, model)
    assert rows_of(store, ours) == rows_of(store, theirs)


def test_a_request_of_many_packets_is_stored_whole(store: Any) -> None:
    run = new_run(store)
    points = [Point("x" * 200, step / 3, POINT.timestamp, step) for step in range(40_000)]
    by_bulk(store, run, points)
    found = rows_of(store, run)
    assert sorted(row[:4] for row in found["metrics"]) == sorted((p.key, p.value, p.timestamp, p.step) for p in points)
    assert [row[3] for row in found["latest_metrics"]] == [39_999]


def test_a_deleted_run_is_refused_in_the_same_words_and_with_it_the_others_of_the_request(store: Any) -> None:
    refuse_deleted(store)


def test_concurrent_writers_of_the_same_runs_do_not_lock_each_other_out(store: Any) -> None:
    together, alone = [new_run(store), new_run(store)], [new_run(store), new_run(store)]
    batches = CASES["many batches"]

    def send(number: int) -> None:
        batch = batches[number % len(batches)]
        runs = together if number % 2 else together[::-1]
        write(store, [columns(run, batch if number % 3 else batch[::-1]) for run in runs])

    with ThreadPoolExecutor(6) as pool:
        for job in [pool.submit(send, number) for number in range(60)]:
            job.result(60)
    for batch in batches:
        write(store, [columns(run, batch) for run in alone])
    for run, other in zip(together, alone, strict=True):
        found, expected = rows_of(store, run), rows_of(store, other)
        assert found["metrics"] == expected["metrics"]
        assert [row[:4] for row in found["latest_metrics"]] == [row[:4] for row in expected["latest_metrics"]]


def test_a_writer_whom_the_database_chose_to_end_a_deadlock_writes_again(store: Any) -> None:
    first, second = sorted((new_run(store), new_run(store)))
    for run in (first, second):
        by_bulk(store, run, [POINT])
    lock = sqlalchemy.text("UPDATE latest_metrics SET step = 1 WHERE run_uuid = :run")
    later = POINT._replace(key="a", step=2), POINT._replace(step=2)
    ended: list[str] = []
    note = lambda context: ended.append(str(context.original_exception))  # noqa: E731  # removed by its identity
    sqlalchemy.event.listen(store.engine, "handle_error", note)
    with ThreadPoolExecutor(1) as pool, store.engine.connect() as other:
        # MySQL ends the one who has changed fewer rows, PostgreSQL as a rule the one who waits longer.
        many = [row._asdict() for row in tables_rows(columns(second, [POINT._replace(step=n) for n in range(9, 999)]))]
        other.execute(SqlMetric.__table__.insert(), many)
        other.execute(lock, {"run": second})
        job = pool.submit(write, store, [columns(run, later) for run in (first, second)])
        with pytest.raises(TimeoutError):
            job.result(0.5)  # it has rows of the first run, and waits for one of the second
        with suppress(sqlalchemy.exc.DBAPIError):
            other.execute(lock, {"run": first})
        other.rollback()
        job.result(60)
    sqlalchemy.event.remove(store.engine, "handle_error", note)
    assert "eadlock" in "".join(ended)
    for run in (first, second):
        assert [row[3] for row in rows_of(store, run)["latest_metrics"]] == [2, 2]


@pytest.mark.parametrize(("key", "other"), [("loss", "Loss"), ("loss", "loss "), ("a", "ä")])
def test_a_key_that_mysql_takes_for_another_one_is_refused_as_by_log_batch_and_not_lost_in_silence(
    folding: Any, key: str, other: str
) -> None:
    mark = POINT._replace(key=key)
    refused: dict[Any, list[str]] = {}
    for way in (by_log_batch, by_bulk):
        run = new_run(folding)
        way(folding, run, [mark])
        for point in (mark._replace(key=other), mark._replace(key=other, step=2)):
            for batch in ([point], [mark._replace(step=3), point]):
                with pytest.raises(MlflowException) as caught:
                    way(folding, run, batch)
                refused.setdefault(way, []).append(caught.value.error_code)
        assert [row[0] for row in rows_of(folding, run)["metrics"]] == [key]
    assert refused[by_bulk] == refused[by_log_batch]


def test_without_the_bulk_way_such_a_key_does_not_count_as_stored_either(
    folding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sink = new_run(folding), open_sink(folding.db_uri, "/", request_timeout=60.0)
    monkeypatch.setattr(sink._runs.bulk, "send", lambda *_: False)
    for _ in range(2):
        sink.log_batch(run, metrics=[POINT])
    with pytest.raises(Refused, match="Duplicate entry"):
        sink.log_batch(run, metrics=[POINT._replace(key="Loss")])


class Secured(NamedTuple):
    """A server with `tailrace-auth`, and its database as MLflow's store."""

    uri: str
    store: Any


ADMIN, ADA, EVE = ("admin", "the-admin-of-tests"), ("ada", "the-password-of-ada"), ("eve", "the-password-of-eve")


@pytest.fixture(scope="module", params=["", "true"], ids=["open", "fail closed"])
def secured(
    request: pytest.FixtureRequest, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    pytest.importorskip("flask_wtf")
    directory = tmp_path_factory.mktemp("secured")
    database = f"sqlite:///{copy_database(sqlite_template, directory, 'mlflow-artifacts:/0')}"
    config = directory / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{directory / 'auth.db'}\n"
        f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-tests",
        "PYTHONPATH": lay_entry_points(directory),
    }
    if request.param:
        variables["MLFLOW_BASIC_AUTH_FAIL_CLOSED"] = request.param
    with serving(directory, "--app-name", "tailrace-auth", "--backend-store-uri", database, **variables) as uri:
        for name, password in (ADA, EVE):
            body = {"username": name, "password": password}
            made = requests.post(f"{uri}/api/2.0/mlflow/users/create", json=body, auth=ADMIN, timeout=60)
            assert made.ok, made.text
        yield Secured(uri, open_store(database))


def _own_run(secured: Secured, who: tuple[str, str], experiment: str) -> str:
    """A run of an experiment that its creator may write to, and nobody else."""
    api = f"{secured.uri}/api/2.0/mlflow"
    made = requests.post(f"{api}/experiments/create", json={"name": experiment}, auth=who, timeout=60)
    run = requests.post(
        f"{api}/runs/create", json={"experiment_id": made.json()["experiment_id"]}, auth=who, timeout=60
    )
    found: str = run.json()["run"]["info"]["run_id"]
    return found


def _post(secured: Secured, runs: list[str], who: tuple[str, str] | None) -> requests.Response:
    body = encode([columns(run, [POINT]) for run in runs])
    return requests.post(f"{secured.uri}{ROUTE}", data=body, auth=who, timeout=60)


def test_who_may_update_a_run_may_send_points_to_it_and_nobody_else(secured: Secured) -> None:
    run = _own_run(secured, ADA, "of ada")
    for who, status in ((None, 401), (("ada", "wrong-password"), 401), (EVE, 403)):
        assert _post(secured, [run], who).status_code == status
        assert rows_of(secured.store, run)["metrics"] == []
    for who in (ADA, ADMIN):
        assert _post(secured, [run], who).status_code == 200
        assert len(rows_of(secured.store, run)["metrics"]) == 1


def test_one_run_that_is_forbidden_keeps_all_of_the_request_out(secured: Secured) -> None:
    mine, other = _own_run(secured, EVE, "of eve"), _own_run(secured, ADA, "again of ada")
    for runs in ([mine, other], [other, mine]):
        assert _post(secured, runs, EVE).status_code == 403
    assert rows_of(secured.store, mine)["metrics"] == rows_of(secured.store, other)["metrics"] == []
    assert _post(secured, [mine], EVE).status_code == 200


def test_points_of_a_model_need_the_right_to_change_that_model(secured: Secured) -> None:
    mine = _own_run(secured, EVE, "models of eve")
    theirs = secured.store.get_run(_own_run(secured, ADA, "models of ada")).info.experiment_id
    model = secured.store.create_logged_model(theirs, "m").model_id
    body = encode([columns(mine, [POINT], ModelOf(model))])
    assert requests.post(f"{secured.uri}{ROUTE}", data=body, auth=EVE, timeout=60).status_code == 403
    assert rows_of(secured.store, mine)["metrics"] == []


def test_the_question_whether_there_is_a_route_needs_a_login(secured: Secured) -> None:
    assert requests.get(f"{secured.uri}{ROUTE}", timeout=60).status_code == 401
    assert requests.get(f"{secured.uri}{ROUTE}", auth=EVE, timeout=60).json() == {"points": 50_000}
