"""`mlflow.bulk_tables`: databases are written to directly, if their tables are known."""

from __future__ import annotations

import pytest
import sqlalchemy

from helpers.bulk_cases import CASES, by_log_batch, new_run, rows_of
from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.bulk_tables import BulkTables
from tailrace_agent.mlflow.run_store import AT_ONCE
from tailrace_agent.mlflow.stores import open_store

POINT = Point("loss", 0.5, 1, 1)


def test_a_database_takes_many_points_at_once(sqlite_uri: str) -> None:
    store = open_store(sqlite_uri, "/", 5.0)
    tables, ours, theirs = BulkTables(store), new_run(store), new_run(store)
    assert tables.at_once(1) == AT_ONCE
    for batch in CASES["many batches"]:
        assert tables.send(ours, batch)
        by_log_batch(store, theirs, batch)
    assert rows_of(store, ours) == rows_of(store, theirs)


def test_nothing_is_sent_before_the_tables_were_looked_at(sqlite_uri: str) -> None:
    store = open_store(sqlite_uri, "/", 5.0)
    assert not BulkTables(store).send(new_run(store), [POINT])


def test_files_have_no_such_way(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    tables = BulkTables(open_store(f"file://{tmp_path}/mlruns", "/", 5.0))
    assert tables.at_once(1000) == 0
    assert tables.reason == "it is no database"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE alembic_version SET version_num = 'feedbeef'", "feedbeef"),
        ("ALTER TABLE metrics ADD COLUMN unit VARCHAR(10)", "metrics"),
        ("ALTER TABLE latest_metrics RENAME COLUMN is_nan TO nan", "latest_metrics"),
    ],
)
def test_tables_that_are_not_known_have_none(sqlite_uri: str, change: str, reason: str) -> None:
    store = open_store(sqlite_uri, "/", 5.0)
    with store.engine.begin() as connection:
        connection.execute(sqlalchemy.text(change))
    tables = BulkTables(store)
    assert tables.at_once(1000) == 0
    assert reason in str(tables.reason)


def test_a_store_of_somebody_elses_has_none(sqlite_uri: str) -> None:
    store = open_store(sqlite_uri, "/", 5.0)
    store.__class__ = type("TheirStore", (type(store),), {})
    tables = BulkTables(store)
    assert tables.at_once(1000) == 0
    assert "TheirStore" in str(tables.reason)


def test_a_database_that_is_migrated_meanwhile_goes_the_other_way(sqlite_uri: str) -> None:
    store = open_store(sqlite_uri, "/", 5.0)
    tables, run = BulkTables(store), new_run(store)
    assert tables.at_once(1)
    with store.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'feedbeef'"))
    assert not tables.send(run, [POINT])
    assert tables.at_once(1) == 0
    assert rows_of(store, run)["metrics"] == []
