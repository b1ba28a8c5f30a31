"""`bulk.fitness`: only what was tested is written to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy

from helpers.bulk_cases import open_store
from tailrace_agent.bulk import fitness


@pytest.fixture
def store(sqlite_uri: str) -> Any:
    return open_store(sqlite_uri)


def test_the_tables_of_the_mlflow_that_is_installed_are_tested(store: Any) -> None:
    """If not: run the tests of `bulk` with its version in `TESTED`, and add it there when they pass."""
    assert fitness.unfit(store) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("UPDATE alembic_version SET version_num = 'feedbeef'", "feedbeef"),
        ("DELETE FROM alembic_version", "none"),
        ("INSERT INTO alembic_version VALUES ('feedbeef')", "feedbeef"),
        ("ALTER TABLE metrics ADD COLUMN unit VARCHAR(10)", "table metrics"),
        ("ALTER TABLE latest_metrics RENAME COLUMN is_nan TO nan", "table latest_metrics"),
    ],
)
def test_other_tables_are_not_fit_and_the_reason_says_which(store: Any, change: str, word: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(sqlalchemy.text(change))
    with pytest.raises(fitness.Unfit, match=word):
        fitness.check_store(store)


def test_a_key_that_is_not_mlflows_is_none(store: Any) -> None:
    with store.engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE other AS SELECT * FROM latest_metrics"))
        connection.execute(sqlalchemy.text("DROP TABLE latest_metrics"))
        connection.execute(sqlalchemy.text("ALTER TABLE other RENAME TO latest_metrics"))
    assert "latest_metrics" in str(fitness.unfit(store))


@pytest.mark.parametrize(("name", "driver", "word"), [("mssql", "pyodbc", "mssql"), ("mysql", "asyncmy", "asyncmy")])
def test_a_database_of_a_kind_or_a_driver_that_was_not_tested_is_not_fit(
    store: Any, name: str, driver: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "engine", SimpleNamespace(dialect=SimpleNamespace(name=name, driver=driver)))
    assert word in str(fitness.unfit(store))
