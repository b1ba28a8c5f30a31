"""`tailrace_agent.mlflow.databases`."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest
from mlflow.store.db import utils as mlflow_db

from helpers.sdk_tools import forget, script
from tailrace_agent.mlflow import databases
from tailrace_agent.mlflow.databases import prepare_database


def _version(path: Path) -> str | None:
    """Of the tables in a file; None where there are none."""
    connection = sqlite3.connect(path)
    try:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError:
        return None
    finally:
        connection.close()
    return None if found is None else str(found[0])


def test_a_new_file_appears_with_all_its_tables_at_once(tmp_path: Path) -> None:
    path, seen = tmp_path / "mlflow.db", []

    def look() -> None:
        until = time.monotonic() + 60
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.0005)
        seen.append(_version(path))

    looking = threading.Thread(target=look)
    looking.start()
    prepare_database(f"sqlite:///{path}")
    looking.join()
    assert seen == [mlflow_db._get_latest_schema_revision()]
    assert [each.name for each in tmp_path.iterdir()] == ["mlflow.db"]


def test_one_that_somebody_else_is_making_is_left_to_them(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()

    def finish() -> None:
        time.sleep(0.3)
        made, place = sqlite3.connect(sqlite_template), sqlite3.connect(path)
        made.backup(place)
        made.close()
        place.close()

    def never(_: object) -> None:
        raise AssertionError("both make the tables")

    monkeypatch.setattr(mlflow_db, "_initialize_tables", never)
    making = threading.Thread(target=finish)
    making.start()
    prepare_database(f"sqlite:///{path}")
    making.join()
    assert _version(path) == mlflow_db._get_latest_schema_revision()


def test_one_that_nobody_goes_on_with_gets_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_AT_WORK", 0.2)
    path = tmp_path / "mlflow.db"
    path.touch()
    prepare_database(f"sqlite:///{path}")
    assert _version(path) == mlflow_db._get_latest_schema_revision()


def test_it_is_made_in_its_place_where_that_is_the_only_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError("this file system has no links")

    monkeypatch.setattr(databases.os, "link", no_link)
    prepare_database(f"sqlite:///{tmp_path}/mlflow.db")
    assert _version(tmp_path / "mlflow.db") == mlflow_db._get_latest_schema_revision()


AT_ONCE = """
import time
import mlflow
import tailrace
from mlflow import MlflowClient

mlflow.set_tracking_uri("sqlite:///new.db")
tailrace.set_tracking_uri("sqlite:///new.db")
run = tailrace.start_run(run_name="both")
tailrace.log(step=0, loss=0.5)
time.sleep({pause})
client = MlflowClient()
client.search_experiments()
tailrace.end_run()
print("SEEN", client.get_run(run.info.run_id).data.metrics)
"""


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 1.5, 2.5])
def test_a_program_that_opens_the_database_while_the_agent_does_has_no_error(tmp_path: Path, pause: float) -> None:
    done = script(tmp_path, AT_ONCE.format(pause=pause))
    assert "SEEN {'loss': 0.5}" in done.stdout, done.stderr
    forget(tmp_path)
