"""Runs in a SQLite database without MLflow: the rows are those that MLflow's own store leaves, the errors its own."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from helpers.bulk_cases import CASES
from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.own_runs import MlflowRuns
from tailrace_agent.mlflow.sqlite_runs import SqliteRuns, known_database
from tailrace_agent.mlflow.stores import open_store

POINT = Point("loss", 0.5, 1_700_000_000_000, 1)
TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")


@pytest.fixture
def ways(sqlite_uri: str, tmp_path: Path) -> tuple[SqliteRuns, MlflowRuns]:
    return SqliteRuns(sqlite_uri, str(tmp_path), 5.0), MlflowRuns(sqlite_uri, open_store(sqlite_uri, "/", 5.0), 5.0)


def new_run(uri: str) -> str:
    run = MlflowClient(uri).create_run("0", start_time=1, tags={"mlflow.user": "ada"}, run_name="a run")
    return str(run.info.run_id)


def rows(uri: str, run_id: str) -> dict[str, list[Any]]:
    """All that the database has of a run, but its id."""
    found = {}
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        for table in TABLES:
            selected = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run_id,))
            found[table] = sorted(repr(row).replace(run_id, "RUN") for row in selected)
    return found


CALLS: dict[str, list[tuple[str, tuple[Any, ...]]]] = {
    "texts": [
        ("log_batch", ((), [("lr", "0.1"), ("größe", "ü" * 6000), ("empty", "")], [("a/b c", "x"), ("a/b c", "y")])),
        ("log_batch", ((), [("lr", "0.1"), ("new", "1")], [("a/b c", "z"), ("long", "x" * 8000)])),
    ],
    "all kinds at once": [("log_batch", ([POINT, Point("b", 1.0, 5, -2)], [("lr", "0.1")], [("phase", "one")]))],
    "nothing": [("log_batch", ((), (), ()))],
    "another name by a tag": [("log_batch", ((), (), [("mlflow.runName", "renamed"), ("other", "1")]))],
    "an end": [("update_run", ("FINISHED", 77, None))],
    "an end without a time": [("update_run", ("KILLED", None, None))],
    "begun again": [("update_run", ("FAILED", 77, None)), ("update_run", ("RUNNING", 77, "again"))],
}


@pytest.mark.parametrize("calls", CALLS)
def test_the_rows_are_those_of_mlflows_store(calls: str, ways: tuple[SqliteRuns, MlflowRuns], sqlite_uri: str) -> None:
    left = []
    for way in ways:
        run_id = new_run(sqlite_uri)
        for name, arguments in CALLS[calls]:
            getattr(way, name)(run_id, *arguments)
        left.append(rows(sqlite_uri, run_id))
        assert ways[0].run(run_id) == ways[1].run(run_id)
    assert left[0] == left[1]


def test_running_runs_that_have_a_tag_are_found_as_mlflow_finds_them(
    ways: tuple[SqliteRuns, MlflowRuns], sqlite_uri: str
) -> None:
    client, (going, over, gone, other) = MlflowClient(sqlite_uri), (new_run(sqlite_uri) for _ in range(4))
    for run_id in (going, over, gone):
        client.set_tag(run_id, "tailrace.stop", "ada: enough")
    client.set_tag(other, "tailrace.stopped", "no")
    client.set_terminated(over)
    client.delete_run(gone)
    for way in ways:
        assert way.running_with_tag(["0"], "tailrace.stop") == {going: "ada: enough"}
        assert way.running_with_tag(["1"], "tailrace.stop") == {}


@pytest.mark.parametrize("case", CASES)
def test_points_are_stored_as_log_batch_stores_them(
    case: str, ways: tuple[SqliteRuns, MlflowRuns], sqlite_uri: str
) -> None:
    direct, own = ways
    sent, batched, theirs = (new_run(sqlite_uri) for _ in range(3))
    for batch in CASES[case]:
        assert direct.at_once(len(batch)) >= len(batch)
        assert direct.send(sent, batch)
        direct.log_batch(batched, batch)
        own.log_batch(theirs, batch)
    assert rows(sqlite_uri, sent) == rows(sqlite_uri, batched) == rows(sqlite_uri, theirs)
    assert direct.run(sent).steps == own.run(theirs).steps


REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "a name": ("log_batch", ([POINT, Point("loss?", 1.0, 1, 1)], [("fine", "1")], ())),
    "a time before 1970": ("log_batch", ([Point("loss", 1.0, -1, 1)], (), ())),
    "a param that changes": ("log_batch", ([POINT], [("lr", "0.2")], [("t", "1")])),
    "a param twice": ("log_batch", ((), [("x", "1"), ("x", "2")], ())),
    "an unknown status": ("update_run", ("ENDED", 1, None)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_mlflow_refuses_is_refused_in_its_words_and_nothing_is_written(
    case: str, ways: tuple[SqliteRuns, MlflowRuns], sqlite_uri: str
) -> None:
    name, arguments = REFUSED[case]
    said = []
    for way in ways:
        run_id = new_run(sqlite_uri)
        way.log_batch(run_id, params=[("lr", "0.1")])
        before = rows(sqlite_uri, run_id)
        with pytest.raises(Exception) as caught:
            getattr(way, name)(run_id, *arguments)
        said.append((type(caught.value), str(caught.value).replace(run_id, "RUN")))
        assert rows(sqlite_uri, run_id) == before
    assert said[0] == said[1]


@pytest.mark.parametrize("gone", ["deleted", "never there"])
def test_a_run_that_is_not_there_is_refused_in_mlflows_words(
    gone: str, ways: tuple[SqliteRuns, MlflowRuns], sqlite_uri: str
) -> None:
    run_id = "f" * 32
    if gone == "deleted":
        run_id = new_run(sqlite_uri)
        MlflowClient(sqlite_uri).delete_run(run_id)
        assert [way.run(run_id).lifecycle_stage for way in ways] == ["deleted", "deleted"]
    for name, arguments in (("log_batch", ([POINT],)), ("update_run", ("FINISHED", 1, None)), ("send", ([POINT],))):
        said = []
        for way in ways:
            call = getattr(way if name != "send" else way.bulk, name)
            way.bulk.at_once(1)
            with pytest.raises(MlflowException) as caught:
                call(run_id, *arguments)
            said.append((caught.value.error_code, str(caught.value)))
        assert said[0] == said[1]


def test_a_lock_is_waited_for_and_no_longer_than_the_time_out(sqlite_uri: str, tmp_path: Path) -> None:
    run_id = new_run(sqlite_uri)
    with closing(sqlite3.connect(sqlite_uri.removeprefix("sqlite:///"), check_same_thread=False)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            SqliteRuns(sqlite_uri, str(tmp_path), 0.3).log_batch(run_id, [POINT])
        assert time.monotonic() - begun < 10
        release = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        release.start()
        SqliteRuns(sqlite_uri, str(tmp_path), 60.0).log_batch(run_id, [POINT])
        release.join()
    assert len(rows(sqlite_uri, run_id)["metrics"]) == 1


def test_a_database_that_is_migrated_meanwhile_is_left_to_mlflow(
    ways: tuple[SqliteRuns, MlflowRuns], sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, run_id = ways[0], new_run(sqlite_uri)
    direct.log_batch(run_id, [POINT])
    with closing(sqlite3.connect(sqlite_uri.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'another'")
        connection.commit()
    taken: list[Any] = []
    monkeypatch.setattr(direct, "_mlflow", lambda: ways[1])
    monkeypatch.setattr(ways[1], "log_batch", lambda *batch: taken.append(batch))
    direct.log_batch(run_id, [POINT._replace(step=2)])
    assert len(taken) == 1
    assert direct.at_once(5) == 0, "nor is the bulk way for such tables"
    assert direct.run(run_id).run_id == run_id


def test_only_a_plain_file_of_a_known_version_is_written_to(sqlite_uri: str, tmp_path: Path) -> None:
    path = Path(sqlite_uri.removeprefix("sqlite:///"))
    assert known_database(sqlite_uri, "/", {}) == sqlite_uri
    assert known_database(f"sqlite:///{path.name}", str(path.parent), {}) == sqlite_uri
    assert known_database(None, "/", {"MLFLOW_TRACKING_URI": f"tailrace+{sqlite_uri}"}) == sqlite_uri
    missing = tmp_path / "missing.db"
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at" * 100)
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE runs (id)")
    others = [f"sqlite:///{tmp_path}/{name}.db" for name in ("missing", "text", "other")]
    others += ["http://localhost:5000", "sqlite://", "sqlite:///:memory:", f"{sqlite_uri}?mode=ro", "mlruns", "file:x"]
    for uri in others:
        assert known_database(uri, "/", {}) is None, uri
    assert known_database(None, "/", {}) is None
    assert known_database(sqlite_uri, "/", {"MLFLOW_WORKSPACE": "team"}) is None
    assert not missing.exists()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE tags ADD COLUMN more")
    assert known_database(sqlite_uri, "/", {}) is None


OPENED = """
import json, sys
from tailrace_agent.ipc.records import Point
from tailrace_agent.sinks.mlflow import open_sink

sink = open_sink(sys.argv[1], "/", request_timeout=5.0, own_process=True)
sink.log_batch(sys.argv[2], metrics=[Point("loss", 0.5, 5, 1)] * sink.metrics_at_once(1))
sink.log_batch(sys.argv[2], params=[("lr", "0.1")], tags=[("a", "b")])
sink.end_run(sys.argv[2], "FINISHED", 7)
print(json.dumps([name for name in ("mlflow", "sqlalchemy", "pandas") if name in sys.modules]))
"""


def test_a_run_that_is_there_is_written_and_ended_without_importing_mlflow(sqlite_uri: str) -> None:
    run_id = new_run(sqlite_uri)
    command = [sys.executable, "-c", OPENED, sqlite_uri, run_id]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
    run = MlflowClient(sqlite_uri).get_run(run_id)
    assert (run.info.status, run.info.end_time, run.data.params) == ("FINISHED", 7, {"lr": "0.1"})
    assert run.data.metrics == {"loss": 0.5}
