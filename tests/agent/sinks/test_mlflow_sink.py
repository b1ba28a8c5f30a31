from __future__ import annotations

import itertools
import json
import logging
import math
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from helpers.sdk_tools import newer_than_mlflow_3_7
from tailrace_agent.errors import Refused, RunGone, StoreRefused, Unavailable
from tailrace_agent.ipc.records import Point, RunSpec, run_hex
from tailrace_agent.mlflow.errors import mask, opening_failed, retry_after, translate
from tailrace_agent.mlflow.links import run_page
from tailrace_agent.mlflow.log_batch_body import batch_body
from tailrace_agent.settings.uris import public_uri
from tailrace_agent.sinks.memory import MemorySink
from tailrace_agent.sinks.mlflow import MlflowSink, open_sink

_numbers = itertools.count(int(time.time() * 1000))


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}-{next(_numbers)}"


def spec(**changes: Any) -> RunSpec:
    return RunSpec(**{"run": next(_numbers), "start_time": 1_700_000_000_000, "cwd": "/", **changes})


def sink_for(uri: str | None, cwd: str | Path = "/", timeout: float = 20) -> MlflowSink:
    sink = open_sink(uri, str(cwd), request_timeout=timeout)
    assert isinstance(sink, MlflowSink)
    return sink


def opened(sink: MlflowSink, experiment: str) -> str:
    return sink.open_run(spec(experiment_name=experiment), None, find_first=False).run_id


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_is_created_with_all_that_its_spec_says(store_uri: str, experiment: str) -> None:
    sink, client = sink_for(store_uri), MlflowClient(store_uri)
    parent = opened(sink, experiment)
    child = spec(
        experiment_name=experiment,
        run_name="vision",
        description="first try",
        tags={"mlflow.user": "ada", "team": "x", "mlflow.runName": "other"},
    )
    ref = sink.open_run(child, parent, find_first=False)
    run = client.get_run(ref.run_id)
    assert (run.info.run_name, run.info.start_time, run.info.status) == ("vision", child.start_time, "RUNNING")
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["mlflow.note.content"] == "first try"
    assert run.data.tags["tailrace.run"] == run_hex(child.run)
    assert run.data.tags["team"] == "x"
    assert run.info.user_id == "ada"
    assert client.get_experiment(ref.experiment_id).name == experiment
    assert ref.run_name == "vision"


def test_a_run_on_a_server_has_a_page_and_one_in_a_file_has_none(
    mlflow_server: str, sqlite_uri: str, experiment: str
) -> None:
    with_password = mlflow_server.replace("://", "://ada:secret@") + "/"
    ref = sink_for(with_password).open_run(spec(experiment_name=experiment), None, find_first=False)
    assert ref.url == run_page(mlflow_server, ref.experiment_id, ref.run_id)
    assert sink_for(sqlite_uri).open_run(spec(), None, find_first=False).url is None


def test_a_run_whose_answer_was_lost_is_found_by_its_tag(store_uri: str, experiment: str) -> None:
    sink, asked = sink_for(store_uri), spec(experiment_name=experiment)
    first = sink.open_run(asked, None, find_first=True)
    assert sink.open_run(asked, None, find_first=True) == first
    assert sink.open_run(spec(experiment_name=experiment), None, find_first=True).run_id != first.run_id


def test_twins_are_discarded_and_their_neighbours_stay(store_uri: str, experiment: str) -> None:
    sink, asked = sink_for(store_uri), spec(experiment_name=experiment)
    kept, *twins = (sink.open_run(asked, None, find_first=False).run_id for _ in range(3))
    neighbour = opened(sink, experiment)
    assert sink.discard_twins(asked, kept) == 2
    assert sink.discard_twins(asked, kept) == 0
    client = MlflowClient(store_uri)
    assert [client.get_run(run).info.lifecycle_stage for run in twins] == ["deleted", "deleted"]
    assert {client.get_run(run).info.lifecycle_stage for run in (kept, neighbour)} == {"active"}


def test_two_that_create_one_experiment_at_once_both_get_it(store_uri: str, experiment: str) -> None:
    sink = sink_for(store_uri)
    start, found, faults = threading.Barrier(4), [], []

    def create() -> None:
        start.wait(10)
        try:
            found.append(sink.open_run(spec(experiment_name=experiment), None, find_first=False).experiment_id)
        except Unavailable as error:  # SQLite may be locked for a moment; that is no refusal
            faults.append(error)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) + len(faults) == 4
    assert len(set(found)) == 1


def test_a_deleted_experiment_is_refused_with_the_way_to_restore_it(store_uri: str, experiment: str) -> None:
    sink, client = sink_for(store_uri), MlflowClient(store_uri)
    experiment_id = client.create_experiment(experiment)
    client.delete_experiment(experiment_id)
    for where in ({"experiment_name": experiment}, {"experiment_id": experiment_id}):
        with pytest.raises(Refused, match=f"mlflow experiments restore -x {experiment_id}"):
            sink.open_run(spec(**where), None, find_first=False)
    with pytest.raises(Refused):
        sink.open_run(spec(experiment_id="987654321"), None, find_first=False)


def test_without_an_experiment_the_environment_decides_and_then_mlflow(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, client = sink_for(sqlite_uri), MlflowClient(sqlite_uri)
    other = client.create_experiment("other")

    def lands_in() -> str:
        return sink.open_run(spec(), None, find_first=False).experiment_id

    assert lands_in() == "0"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    assert lands_in() == other
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "made on the way")
    assert lands_in() == client.get_experiment_by_name("made on the way").experiment_id


def test_a_resumed_run_is_running_again_and_keeps_its_origin(store_uri: str, experiment: str) -> None:
    sink, client = sink_for(store_uri), MlflowClient(store_uri)
    run_id = opened(sink, experiment)
    origin = client.get_run(run_id).data.tags["tailrace.run"]
    sink.end_run(run_id, "FAILED", 1_700_000_001_000)
    tags = {"mlflow.user": "me", "mlflow.source.name": "x.py", "note": "again"}
    again = spec(run_id=run_id, tags=tags, run_name="renamed")
    assert sink.open_run(again, None, find_first=True).run_id == run_id
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name, run.data.tags["note"]) == ("RUNNING", "renamed", "again")
    assert run.data.tags["tailrace.run"] == origin
    assert "mlflow.source.name" not in run.data.tags
    assert sink.discard_twins(again, run_id) == 0


def test_the_status_of_somebody_elses_run_is_left_alone(store_uri: str, experiment: str) -> None:
    sink = sink_for(store_uri)
    run_id = opened(sink, experiment)
    sink.end_run(run_id, "KILLED", 1_700_000_001_000)
    sink.open_run(spec(run_id=run_id, owned=False), None, find_first=False)
    info = MlflowClient(store_uri).get_run(run_id).info
    assert (info.status, info.end_time) == ("KILLED", 1_700_000_001_000)


def test_a_deleted_run_is_gone_whatever_is_asked_of_it(store_uri: str, experiment: str, tmp_path: Path) -> None:
    sink = sink_for(store_uri)
    deleted = opened(sink, experiment)
    MlflowClient(store_uri).delete_run(deleted)
    (tmp_path / "a.txt").write_text("a")
    never = "f" * 32
    calls: list[Callable[[str], object]] = [
        lambda run: sink.log_batch(run, metrics=[Point("a", 1.0, 1, 0)]),
        lambda run: sink.log_batch(run, params=[("a", "1")]),
        lambda run: sink.end_run(run, "FINISHED", 1),
        lambda run: sink.open_run(spec(run_id=run), None, find_first=False),
        lambda run: sink.log_artifact(run, tmp_path / "a.txt", None),
    ]
    for call, run_id in itertools.product(calls, (deleted, never)):
        with pytest.raises(RunGone):
            call(run_id)


def test_a_tag_that_is_too_long_does_not_keep_the_run_from_being_opened(
    store_uri: str, experiment: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink = sink_for(store_uri)
    with caplog.at_level(logging.WARNING, "tailrace_agent"):
        ref = sink.open_run(spec(experiment_name=experiment, description="x" * 9000), None, find_first=False)
    assert len(MlflowClient(store_uri).get_run(ref.run_id).data.tags["mlflow.note.content"]) == 8000
    assert "mlflow.note.content has 9000 characters" in caplog.text


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_arrives_as_it_was_logged_not_a_number_included(store_uri: str, experiment: str) -> None:
    sink, client = sink_for(store_uri), MlflowClient(store_uri)
    run_id = opened(sink, experiment)
    values = [0.1, -1e-300, math.nan, math.inf, -math.inf, 5e-324]
    sink.log_batch(run_id, metrics=[Point("a/b c", v, 1_700_000_000_123 + i, i) for i, v in enumerate(values)])
    sink.log_batch(run_id, params=[("näme", "välue \"' \n \u2028 🎈"), ("empty", "")])
    sink.log_batch(run_id, tags=[("t", "x" * 8000)])
    history = sorted(client.get_metric_history(run_id, "a/b c"), key=lambda metric: metric.step)
    largest = 1.7976931348623157e308
    assert [m.value for m in history[:2] + history[3:]] == [0.1, -1e-300, largest, -largest, 5e-324]
    assert math.isnan(history[2].value)
    assert [(m.step, m.timestamp) for m in history] == [(i, 1_700_000_000_123 + i) for i in range(6)]
    run = client.get_run(run_id)
    assert run.data.params == {"näme": "välue \"' \n \u2028 🎈", "empty": ""}
    assert run.data.tags["t"] == "x" * 8000


def test_the_short_way_sends_what_mlflow_would_send() -> None:
    from mlflow.entities import Param, RunTag
    from mlflow.protos.service_pb2 import LogBatch
    from mlflow.utils.proto_json_utils import message_to_json

    points = [Point("a", value, 1, -3) for value in (math.nan, math.inf, -math.inf, 1e300, 1.0, -0.0, 2**53 + 2.0)]
    theirs = LogBatch(
        run_id="r",
        metrics=[Metric(*point).to_proto() for point in points],
        params=[Param("p", "ü\x00").to_proto()],
        tags=[RunTag("t", "").to_proto()],
    )
    assert json.loads(batch_body("r", points, [("p", "ü\x00")], [("t", "")])) == json.loads(message_to_json(theirs))
    assert json.loads(batch_body("r", points)) == json.loads(
        message_to_json(LogBatch(run_id="r", metrics=[Metric(*point).to_proto() for point in points]))
    )


@newer_than_mlflow_3_7("refuses a batch of which a NaN is stored; points go one by one then")
def test_a_batch_sent_twice_is_stored_once(store_uri: str, experiment: str) -> None:
    sink = sink_for(store_uri)
    run_id = opened(sink, experiment)
    points = [
        Point("a", math.nan if step % 7 == 0 else step / 3, 1_700_000_000_000 + step, step) for step in range(500)
    ]
    sink.log_batch(run_id, metrics=points[:300])
    sink.log_batch(run_id, metrics=points)
    sink.log_batch(run_id, metrics=points)
    sink.log_batch(run_id, params=[("p", "1")])
    sink.log_batch(run_id, params=[("p", "1")])
    assert sink.count_metrics(run_id, ["a", "never logged"]) == {"a": 500, "never logged": 0}


def test_metrics_are_counted_whole_across_pages(
    store_uri: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sink_for(store_uri)
    run_id = opened(sink, experiment)
    for start in range(0, 2500, 1000):
        sink.log_batch(
            run_id, metrics=[Point("a", 1.0, 1_700_000_000_000, step) for step in range(start, min(start + 1000, 2500))]
        )
    sink.log_batch(run_id, metrics=[Point("b", 1.0, 1, 0)])
    monkeypatch.setattr("mlflow.store.tracking.GET_METRIC_HISTORY_MAX_RESULTS", 700)
    assert sink.count_metrics(run_id) == {"a": 2500, "b": 1}


def test_a_changed_param_and_a_bad_name_are_refused(store_uri: str, experiment: str) -> None:
    sink = sink_for(store_uri)
    run_id = opened(sink, experiment)
    sink.log_batch(run_id, params=[("lr", "1")])
    refused: list[dict[str, Any]] = [
        {"params": [("lr", "2")]},
        {"metrics": [Point("fine", 1.0, 1, 0), Point("loss(train)", 1.0, 1, 0)]},
        {"tags": [("a" * 251, "1")]},
        {"metrics": [Point("a", 1.0, 1, step) for step in range(1001)]},
        {"tags": [("t", "\ud800")]},
    ]
    for batch in refused:
        with pytest.raises(Refused):
            sink.log_batch(run_id, **batch)
    assert sink.count_metrics(run_id) == {}


def test_a_value_that_is_too_long_is_refused_and_never_cut_in_silence(store_uri: str, experiment: str) -> None:
    sink = sink_for(store_uri)
    run_id = opened(sink, experiment)
    with pytest.raises(Refused, match="6001 characters"):
        sink.log_batch(run_id, params=[("p", "x" * 6001)])
    with pytest.raises(Refused, match="8001 characters"):
        sink.log_batch(run_id, tags=[("p", "x" * 8001)])


def test_names_are_judged_as_mlflow_judges_them_and_in_memory_the_same() -> None:
    sink, memory = MlflowSink("", object(), 1), MemorySink()
    names = ["loss", "a/b", "ä", "a b", "a:b", "loss(train)", "", ".", "..", "/a", "a//b", "a/../b", "a\\b", "x" * 250]
    names += ["x" * 251, "a\nb", "é̂", "\ud800", "..a", "./a", "a/", " ", "%"]
    for kind, name in itertools.product(("metric", "param", "tag", "artifact"), names):
        assert (sink.check(kind, name) is None) == (memory.check(kind, name) is None), (kind, name)
    assert "alphanumerics" in (sink.check("metric", "loss(train)") or "")


# --- artifacts --------------------------------------------------------------------------------------------------------


def test_artifacts_are_uploaded_as_mlflow_would(store_uri: str, experiment: str, tmp_path: Path) -> None:
    sink, client = sink_for(store_uri), MlflowClient(store_uri)
    run_id = opened(sink, experiment)
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f.txt").write_text("f")
    sink.log_artifact(run_id, tmp_path / "d" / "e" / "f.txt", None)
    sink.log_artifact(run_id, tmp_path / "d", "up")
    sink.log_artifacts(run_id, tmp_path / "d", "in")
    for path, name in (("", "f.txt"), ("up/d/e", "f.txt"), ("in/e", "f.txt")):
        assert f"{path}/{name}".strip("/") in [file.path for file in client.list_artifacts(run_id, path or None)]
    for missing in (sink.log_artifact, sink.log_artifacts):
        with pytest.raises(Refused, match="is gone"):
            missing(run_id, tmp_path / "nothing", None)


# --- which store ------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("carrier-pigeon://roof", "pigeon"),
        ("mysql+nosuchdriver://ada:secret@db/x", "driver"),
        ("postgresql://ada:secret/x@127.0.0.1:1/x", "driver|refused"),
        ("http://", "names no host"),
    ],
)
def test_a_uri_that_cannot_work_is_refused_in_words_and_without_its_password(uri: str, message: str) -> None:
    with pytest.raises((StoreRefused, Unavailable), match=message) as caught:
        sink_for(uri, timeout=2).open_run(spec(), None, find_first=False)
    assert "secret" not in str(caught.value)


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


# --- servers that misbehave -------------------------------------------------------------------------------------------


class Answers:
    """A socket that gives each request the same answer, and keeps what it was asked."""

    def __init__(self, status: str, body: str = "", headers: str = "", *, silent: bool = False) -> None:
        self.requests: list[bytes] = []
        self.silent = silent
        self.answer = f"HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.requests.append(client.recv(65536))
            if self.silent:
                self._held.append(client)
                continue
            if self.answer.startswith("HTTP/1.1 RST"):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            else:
                client.sendall(self.answer.encode())
            client.close()


@contextmanager
def answering(status: str, body: str = "", headers: str = "", *, silent: bool = False) -> Iterator[Answers]:
    server = Answers(status, body, headers, silent=silent)
    try:
        yield server
    finally:
        server.listener.close()


def attempt(uri: str, timeout: float = 5) -> None:
    sink_for(uri, timeout=timeout).log_batch("f" * 32, metrics=[Point("a", 1.0, 1, 0)])


def problem(code: str, message: str = "so it is") -> str:
    return json.dumps({"error_code": code, "message": message})


@pytest.mark.parametrize(
    ("status", "body", "expected", "message"),
    [
        ("500 Oops", "", Unavailable, "500"),
        ("500 Oops", problem("INTERNAL_ERROR"), Unavailable, "so it is"),
        ("500 Oops", problem("INTERNAL_ERROR", "int too large to convert to SQLite INTEGER"), Refused, "too large"),
        ("502 Bad Gateway", "<html>", Unavailable, "502"),
        ("503 Away", problem("TEMPORARILY_UNAVAILABLE"), Unavailable, "so it is"),
        ("408 Slow", "", Unavailable, "408"),
        ("429 Busy", problem("REQUEST_LIMIT_EXCEEDED"), Unavailable, "so it is"),
        ("401 Who", "You are not authenticated", Unavailable, "MLFLOW_TRACKING_USERNAME"),
        ("403 No", problem("PERMISSION_DENIED"), Unavailable, "MLFLOW_TRACKING_USERNAME.*--allowed-hosts"),
        ("413 Big", "<html>", Refused, "413"),
        ("400 Bad", problem("INVALID_PARAMETER_VALUE"), Refused, "so it is"),
        ("400 Bad", "<html>plain HTTP sent to an HTTPS port", Unavailable, "400"),
        (
            "400 Bad",
            problem("BAD_REQUEST", "QueuePool limit (https://sqlalche.me/e/20/3o7r)"),
            Unavailable,
            "QueuePool",
        ),
        (
            "400 Bad",
            problem("BAD_REQUEST", "(psycopg2.errors.NumericValueOutOfRange) https://sqlalche.me/e/20/9h9h"),
            Refused,
            "NumericValue",
        ),
        ("404 Lost", problem("RESOURCE_DOES_NOT_EXIST"), RunGone, "so it is"),
        ("404 Lost", problem("ENDPOINT_NOT_FOUND"), Unavailable, "so it is"),
        ("404 Lost", '{"detail": "Not Found"}', Unavailable, "no MLflow server at http://127"),
        ("405 Lost", "", Unavailable, "no MLflow server"),
        ("200 OK", "<html>please log in</html>", Unavailable, "not as an MLflow server"),
        ("RST", "", Unavailable, "closed the connection"),
    ],
)
def test_an_answer_becomes_the_right_error_after_one_request(
    status: str, body: str, expected: type[Exception], message: str
) -> None:
    with answering(status, body) as server:
        with pytest.raises(expected, match=message):
            attempt(server.uri)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "said",
    [
        "(sqlite3.IntegrityError) UNIQUE constraint failed: metrics.key",
        '(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "metric_pk"',
        "(pymysql.err.IntegrityError) (1062, \"Duplicate entry 'a' for key 'PRIMARY'\")",
    ],
)
def test_a_nan_that_an_older_server_will_not_take_twice_counts_as_delivered_when_it_is_alone(said: str) -> None:
    nan = Point("a", math.nan, 1, 0)
    text = f"{said} [SQL: INSERT INTO metrics (a) VALUES (?)] (Background: https://sqlalche.me/e/20/gkpj)"
    with answering("400 Bad", problem("BAD_REQUEST", text)) as server:
        sink = sink_for(server.uri)
        sink.log_batch("f" * 32, metrics=[nan])
        with pytest.raises(Refused):
            sink.log_batch("f" * 32, metrics=[nan, Point("a", 1.0, 1, 0)])
    text = text.replace("metrics", "params")
    with answering("400 Bad", problem("BAD_REQUEST", text)) as server, pytest.raises(Refused):
        sink_for(server.uri).log_batch("f" * 32, metrics=[nan])


def test_every_method_asks_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    run_id = "f" * 32
    with answering("503 Away") as server:
        sink = sink_for(server.uri, timeout=5)
        calls: list[Callable[[], object]] = [
            lambda: sink.open_run(spec(experiment_name="e"), None, find_first=False),
            lambda: sink.open_run(spec(experiment_id="1"), None, find_first=True),
            lambda: sink.open_run(spec(run_id=run_id), None, find_first=False),
            lambda: sink.end_run(run_id, "FINISHED", 1),
            lambda: sink.discard_twins(spec(), run_id),
            lambda: sink.count_metrics(run_id, ["a"]),
            lambda: sink.log_artifact(run_id, tmp_path / "a.txt", None),
        ]
        for number, call in enumerate(calls, start=1):
            with pytest.raises(Unavailable, match="503"):
                call()
            assert len(server.requests) == number


def test_an_upload_through_the_server_is_sent_once(tmp_path: Path) -> None:
    from tailrace_agent.mlflow.stores import open_repository

    (tmp_path / "a.txt").write_text("a")
    with answering("503 Away", headers="Retry-After: 9\r\n") as server:
        repository = open_repository("mlflow-artifacts:/0/r/artifacts", server.uri, 5)
        started = time.monotonic()
        with pytest.raises(Exception, match="503") as caught:
            repository.log_artifact(str(tmp_path / "a.txt"), "sub")
        assert time.monotonic() - started < 3
        assert len(server.requests) == 1
        assert b"PUT /api/2.0/mlflow-artifacts/artifacts/0/r/artifacts/sub/a.txt" in server.requests[0]
    error = translate(caught.value, server.uri, remote=True, about_run=True)
    assert isinstance(error, Unavailable)
    assert error.retry_after == 9


def test_a_server_may_say_how_long_to_wait_in_seconds_or_as_a_date() -> None:
    later = datetime.now(timezone.utc) + timedelta(seconds=100)
    for header, low, high in (("7", 7, 7), (later.strftime("%a, %d %b %Y %H:%M:%S GMT"), 90, 100)):
        with answering("429 Busy", headers=f"Retry-After: {header}\r\n") as server:
            with pytest.raises(Unavailable) as caught:
                attempt(server.uri)
            assert caught.value.retry_after is not None
            assert low <= caught.value.retry_after <= high
    assert retry_after("soon") is None
    assert retry_after("-3") == 0
    assert retry_after(None) is None


def test_a_black_hole_holds_a_call_no_longer_than_the_time_out() -> None:
    with answering("", silent=True) as server:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            attempt(server.uri, timeout=0.3)
        assert time.monotonic() - started < 2


def test_a_closed_port_and_an_unknown_host_are_said_to_be_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unavailable, match="refused the connection"):
        attempt(f"http://127.0.0.1:{port}")
    with pytest.raises(Unavailable, match=r"host name in http://nowhere\.invalid cannot be resolved"):
        attempt("http://nowhere.invalid")


def test_credentials_of_the_environment_and_of_the_uri_are_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answering("500 Oops", "http://ada:secret@host said no, password=secret") as server:
        with pytest.raises(Unavailable) as caught:
            attempt(server.uri.replace("://", "://ada:secret@"))
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert b"Authorization: Basic YWRhOnNlY3JldA==" in server.requests[0]
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok")
        with pytest.raises(Unavailable):
            attempt(server.uri)
        assert b"Authorization: Bearer tok" in server.requests[1]


def test_passwords_are_masked_wherever_they_stand() -> None:
    assert mask("at http://u:p@h/x and postgresql+psycopg2://u:p/q@db/x?") == (
        "at http://***@h/x and postgresql+psycopg2://***@db/x?"
    )
    assert mask("mssql://h/x?PWD=geheim&a=1 password=x; ok") == "mssql://h/x?PWD=***"
    assert public_uri("https://u:p@h:1/prefix/") == "https://h:1/prefix"


def test_a_database_that_is_away_may_come_back() -> None:
    class OperationalError(Exception):
        pass

    error = opening_failed(OperationalError("could not connect"), "postgresql://u:secret@h/x")
    assert isinstance(error, Unavailable)
    assert "secret" not in str(error)


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


def test_loading_the_module_does_not_load_mlflow() -> None:
    code = "import sys, tailrace_agent.sinks.mlflow; sys.exit('mlflow' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environ).returncode == 0
