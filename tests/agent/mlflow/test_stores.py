"""MLflow's stores, opened to be prompt: requests at once, warnings, directories."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from helpers.mlflow_sinks import answering, attempt, opened, sink_for, spec
from helpers.sdk_tools import newer_than_mlflow_3_7
from tailrace_agent.errors import Refused, StoreRefused, Unavailable
from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.stores import in_flight, open_repository, open_store
from tailrace_agent.reading.reader import open_reader

CALLER: ContextVar[str] = ContextVar("caller")


def test_a_server_has_several_requests_at_once_and_a_database_one(store_uri: str) -> None:
    store = open_reader(store_uri, "/").store
    mine = threading.get_ident()
    remote = store_uri.startswith("http")
    both = threading.Barrier(2)

    def ask(job: int) -> tuple[int, bool, str]:
        if remote:
            both.wait(30)  # breaks where the other is not under way
        return job, threading.get_ident() == mine, CALLER.get()

    CALLER.set("ours")  # as MLflow keeps its workspace
    answers = list(in_flight(store, ask, range(6)))
    assert answers == [(job, not remote, "ours") for job in range(6)]


def test_the_first_request_that_fails_ends_the_others(store_uri: str) -> None:
    asked = []

    def ask(job: int) -> None:
        asked.append(job)
        if job == 0:
            raise ValueError("the first one")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="the first one"):
        list(in_flight(open_reader(store_uri, "/").store, ask, range(400)))
    assert len(asked) < 400


@pytest.mark.slow
def test_the_default_store_is_the_one_mlflow_takes_in_that_directory(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours dir", tmp_path / "theirs dir"
    for directory in (ours, theirs):
        directory.mkdir()
    script = (
        "import mlflow; mlflow.start_run(); mlflow.log_metric('a', 1); mlflow.log_text('x', 'x.txt'); mlflow.end_run()"
    )
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, "-c", script], cwd=theirs, check=True, capture_output=True, env=environ)
    sink = sink_for(None, ours)
    run_id = sink.open_run(spec(), None, find_first=False).run_id
    (tmp_path / "x.txt").write_text("x")
    sink.log_batch(run_id, metrics=[Point("a", 1.0, 1, 0)])
    sink.log_artifact(run_id, tmp_path / "x.txt", None)

    def layout(directory: Path) -> set[str]:
        names = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
        return {"/".join("ID" if len(part) == 32 else part for part in name.split("/")) for name in names}

    assert layout(ours) == layout(theirs) == {"mlflow.db", "mlruns/0/ID/artifacts/x.txt"}
    assert MlflowClient(f"sqlite:///{ours}/mlflow.db").get_run(run_id).info.artifact_uri.startswith(str(ours))


def test_relative_stores_are_meant_from_the_directory_given(
    tmp_path: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    database = tmp_path / "sub" / "runs.db"
    database.parent.mkdir()
    database.write_bytes(sqlite_template.read_bytes())
    run_id = sink_for("sqlite:///sub/runs.db", tmp_path).open_run(spec(), None, find_first=False).run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///sub/runs.db")
    found = sink_for(None, tmp_path).open_run(spec(run_id=run_id), None, find_first=False)
    assert found.run_id == run_id
    assert not any(elsewhere.iterdir())


def test_nothing_of_the_process_is_changed(mlflow_server: str, experiment: str) -> None:
    before, uri = dict(os.environ), mlflow.get_tracking_uri()
    sink = sink_for(mlflow_server)
    sink.log_batch(opened(sink, experiment), metrics=[Point("a", 1.0, 1, 0)])
    assert {name: os.environ[name] for name in os.environ if name != "PYTEST_CURRENT_TEST"} == {
        name: before[name] for name in before if name != "PYTEST_CURRENT_TEST"
    }
    assert mlflow.get_tracking_uri() == uri
    assert mlflow.active_run() is None


@newer_than_mlflow_3_7("still takes plain files")
def test_earlier_runs_in_plain_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    with pytest.raises(StoreRefused, match="MLFLOW_ALLOW_FILE_STORE=true"):
        sink_for(None, tmp_path)


@newer_than_mlflow_3_7("upgrades some databases unasked")
def test_a_database_that_is_none_or_outdated_is_refused(tmp_path: Path, sqlite_template: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, but it is long enough to be looked at" * 100)
    with pytest.raises(StoreRefused, match="not a database"):
        sink_for("sqlite:///text.db", tmp_path)
    (tmp_path / "old.db").write_bytes(sqlite_template.read_bytes())
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'cc1f77228345'")
    connection.close()
    with pytest.raises(StoreRefused, match="mlflow db upgrade"):
        sink_for("sqlite:///old.db", tmp_path)


@pytest.mark.slow
def test_threads_of_one_process_open_new_databases_one_after_the_other(tmp_path: Path) -> None:
    uris = [f"sqlite:///{tmp_path}/{number}.db" for number in range(3)]
    with ThreadPoolExecutor(len(uris)) as pool:  # side by side, Alembic's state of one would be the other's
        stores = list(pool.map(lambda uri: open_store(uri, str(tmp_path), 10.0), uris))
    assert [store.get_experiment("0").name for store in stores] == ["Default"] * 3


def test_a_locked_database_is_waited_for_no_longer_than_the_time_out(
    sqlite_uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    sink = sink_for(sqlite_uri, timeout=0.3)
    run_id = sink.open_run(spec(), None, find_first=False).run_id
    connection = sqlite3.connect(sqlite_uri.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with pytest.raises(Unavailable, match="locked"):
        sink.log_batch(run_id, metrics=[Point("a", 1.0, 1, 0)])
    assert time.monotonic() - started < 3
    connection.execute("ROLLBACK")
    connection.close()
    sink.log_batch(run_id, metrics=[Point("a", 1.0, 1, 0)])
    assert "Traceback" not in capfd.readouterr().err


def test_a_plugin_of_a_rest_store_keeps_its_own_ways_and_gets_our_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry
    from mlflow.utils.rest_utils import MlflowHostCreds

    batches = []

    class Plugin(RestStore):  # type: ignore[misc]
        def log_batch(self, run_id: str, metrics: list[Any], params: list[Any], tags: list[Any]) -> None:
            batches.append(len(metrics))
            super().log_batch(run_id, metrics, params, tags)

    with answering("503 Away") as server:
        registry = {**_tracking_store_registry._registry}
        registry["arn"] = lambda store_uri, **_: Plugin(lambda: MlflowHostCreds(server.uri, token="signed"))
        monkeypatch.setattr(_tracking_store_registry, "_registry", registry)
        started = time.monotonic()
        with pytest.raises(Unavailable):
            attempt("arn:aws:sagemaker:eu")
        assert time.monotonic() - started < 2
        assert batches == [1]
        assert len(server.requests) == 1
        assert b"Bearer signed" in server.requests[0]


_ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "where", ["/home/ada/.ssh", "file:///home/ada/.config/autostart", f"/srv/{_ID}/artifacts/../../.ssh", "", "runs"]
)
def test_a_server_cannot_have_files_put_into_any_directory(where: str) -> None:
    with pytest.raises(Refused, match="no directory of a run"):
        open_repository(where, "http://127.0.0.1:9", 1.0)


@pytest.mark.parametrize("where", [f"/srv/0/{_ID}/artifacts", f"file:///srv/0/models/m-{_ID}/artifacts"])
def test_a_server_that_serves_no_artifacts_has_them_where_mlflow_makes_a_place(where: str) -> None:
    assert open_repository(where, "http://127.0.0.1:9", 1.0).artifact_dir.endswith("/artifacts")


def test_a_store_of_ones_own_has_its_files_anywhere(tmp_path: str) -> None:
    assert open_repository(f"{tmp_path}/anywhere", "sqlite:///x.db", 1.0)
