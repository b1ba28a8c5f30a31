"""The sink that speaks to MLflow: runs, batches, artifacts, and servers that misbehave."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from helpers.mlflow_sinks import NUMBERS, answering, attempt, opened, sink_for, spec
from helpers.sdk_tools import newer_than_mlflow_3_7
from tailrace_agent.errors import Refused, RunGone, StoreRefused, Unavailable
from tailrace_agent.ipc.records import JobPart, Point, run_hex
from tailrace_agent.mlflow.errors import retry_after
from tailrace_agent.mlflow.links import run_page
from tailrace_agent.sinks.memory import MemorySink
from tailrace_agent.sinks.mlflow import sink_over

# -- runs --------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("before", [None, "rank 3 was killed by SIGKILL"])
def test_a_job_that_is_started_anew_goes_on_in_its_run_and_its_earlier_end_is_taken_back(
    store_uri: str, experiment: str, before: str | None
) -> None:
    sink, client = sink_for(store_uri), MlflowClient(store_uri)
    first = spec(experiment_name=experiment, job=JobPart(key="k"))
    run_id = sink.open_run(first, None, find_first=True).run_id
    if before is not None:
        sink.log_batch(run_id, tags=[("tailrace.end_reason", before)])
        sink.end_run(run_id, "KILLED", 1_700_000_001_000)
    again = spec(
        run=first.run, experiment_name=experiment, job=JobPart(key="k", attempt=1), tags={"tailrace.attempt": "1"}
    )
    assert sink.open_run(again, None, find_first=True).run_id == run_id
    found = client.get_run(run_id)
    assert (found.info.status, found.data.tags["tailrace.attempt"]) == ("RUNNING", "1")
    assert "tailrace.end_reason" not in found.data.tags
    sink.end_run(run_id, "FINISHED", 1_700_000_002_000)
    assert sink.open_run(first, None, find_first=True).run_id == run_id, "a node of the first attempt comes back"
    found = client.get_run(run_id)
    assert (found.info.status, found.data.tags["tailrace.attempt"]) == ("FINISHED", "1")


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
    assert sink.open_run(asked, None, find_first=True) == first._replace(running=True)
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


def test_without_an_experiment_it_is_mlflows_default_whatever_the_environment_has_become(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, client = sink_for(sqlite_uri), MlflowClient(sqlite_uri)
    other = client.create_experiment("other")

    def lands_in() -> str:
        return sink.open_run(spec(), None, find_first=False).experiment_id

    assert lands_in() == "0"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    assert lands_in() == "0", "what it said when the run began is in the run's record"


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


def test_a_run_that_goes_on_is_rid_of_the_tags_of_its_last_end_unless_it_is_somebody_elses(
    store_uri: str, experiment: str
) -> None:
    sink, client = sink_for(store_uri), MlflowClient(store_uri)
    run_id = opened(sink, experiment)
    ended = {"tailrace.end_reason": "process 7 disappeared", "error.type": "ValueError", "error.message": "no"}
    sink.log_batch(run_id, tags=[*ended.items(), ("note", "stays")])
    sink.end_run(run_id, "FAILED", 1_700_000_001_000)
    sink.open_run(spec(run_id=run_id, owned=False), None, find_first=False)
    assert ended.items() <= client.get_run(run_id).data.tags.items()
    sink.open_run(spec(run_id=run_id), None, find_first=False)
    tags = client.get_run(run_id).data.tags
    assert not tags.keys() & ended.keys()
    assert tags["note"] == "stays"
    sink.delete_tags(run_id, ("note", "note"))  # the second time it is there no more
    assert "note" not in client.get_run(run_id).data.tags


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


# -- batches -----------------------------------------------------------------------------------------------------------


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
    sink, memory = sink_over("", object(), 1), MemorySink()
    names = ["loss", "a/b", "ä", "a b", "a:b", "loss(train)", "", ".", "..", "/a", "a//b", "a/../b", "a\\b", "x" * 250]
    names += ["x" * 251, "a\nb", "é̂", "\ud800", "..a", "./a", "a/", " ", "%"]
    for kind, name in itertools.product(("metric", "param", "tag", "artifact"), names):
        assert (sink.check(kind, name) is None) == (memory.check(kind, name) is None), (kind, name)
    assert "alphanumerics" in (sink.check("metric", "loss(train)") or "")


# -- artifacts ---------------------------------------------------------------------------------------------------------


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


def problem(code: str, message: str = "so it is") -> str:
    return json.dumps({"error_code": code, "message": message})


@pytest.mark.usefixtures("each_way")
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


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize(
    "said",
    [
        "(sqlite3.IntegrityError) UNIQUE constraint failed: metrics.key",
        '(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "metric_pk"',
        "(pymysql.err.IntegrityError) (1062, \"Duplicate entry 'a' for key 'PRIMARY'\")",
    ],
)
def test_a_nan_that_an_older_server_will_not_take_twice_counts_as_delivered_when_it_is_alone_and_there(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = Point("a", math.nan, 1, 0)
    text = f"{said} [SQL: INSERT INTO metrics (a) VALUES (?)] (Background: https://sqlalche.me/e/20/gkpj)"
    with answering("400 Bad", problem("BAD_REQUEST", text)) as server:
        sink = sink_for(server.uri)
        monkeypatch.setattr(sink._runs, "run", lambda _: SimpleNamespace(steps={"a": 0}))
        sink.log_batch("f" * 32, metrics=[nan])
        for refused in ([nan, Point("a", 1.0, 1, 0)], [nan._replace(key="A")]):  # MySQL has taken `A` for `a`
            with pytest.raises(Refused):
                sink.log_batch("f" * 32, metrics=refused)
    text = text.replace("metrics", "params")
    with answering("400 Bad", problem("BAD_REQUEST", text)) as server, pytest.raises(Refused):
        sink_for(server.uri).log_batch("f" * 32, metrics=[nan])


@pytest.mark.usefixtures("each_way")
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


@pytest.mark.usefixtures("each_way")
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


@pytest.mark.usefixtures("each_way")
def test_a_black_hole_holds_a_call_no_longer_than_the_time_out() -> None:
    with answering("", silent=True) as server:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            attempt(server.uri, timeout=0.3)
        assert time.monotonic() - started < 2


@pytest.mark.usefixtures("each_way")
def test_a_closed_port_and_an_unknown_host_are_said_to_be_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unavailable, match="refused the connection"):
        attempt(f"http://127.0.0.1:{port}")
    with pytest.raises(Unavailable, match=r"host name in http://nowhere\.invalid cannot be resolved"):
        attempt("http://nowhere.invalid")


@pytest.mark.usefixtures("each_way")
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


def _in_a_process(code: str, *arguments: str) -> list[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_loading_the_module_does_not_load_mlflow() -> None:
    assert _in_a_process("import sys, tailrace_agent.sinks.mlflow; print('mlflow' in sys.modules)") == ["False"]


@pytest.mark.slow
def test_a_run_on_a_plain_server_needs_mlflow_for_its_models_alone(
    mlflow_server: str, experiment: str, tmp_path: Path
) -> None:
    code = """
import sys
from pathlib import Path
from tailrace_agent.ipc.records import ModelSpec, Point, RunSpec
from tailrace_agent.sinks.mlflow import open_sink
uri, experiment, number, here = sys.argv[1:]
sink = open_sink(uri, "/", request_timeout=20, own_process=True)
spec = RunSpec(run=int(number), start_time=1, cwd="/", experiment_name=experiment, tags={"note": "x" * 9000})
run_id = sink.open_run(spec, None, find_first=True).run_id
assert sink.open_run(spec, None, find_first=True).run_id == run_id
assert sink.check("metric", "a/b") is None
sink.log_batch(run_id, metrics=[Point("a/b", 1.0, 1, 2)], params=[("p", "1")], tags=[("t", "2")])
sink.log_artifacts(run_id, Path(here), "up")
sink.fetch_artifact(run_id, "up/a.txt", Path(here, "down"))
sink.end_run(run_id, "FINISHED", 5)
sink.discard_twins(spec, run_id)
assert sink.count_metrics(run_id) == {"a/b": 1}
assert [found.ref.run_id for found in sink.find_runs(run_id[:12])] == [run_id]
print(run_id, "mlflow" in sys.modules)
(Path(here) / "MLmodel").write_text("flavors: {}")
print(sink.log_model(run_id, Path(here), ModelSpec(name="m", token="t")).uri.partition(":")[0])
print("mlflow" in sys.modules, "pandas" in sys.modules)
"""
    (tmp_path / "a.txt").write_text("abc")
    run_id, *rest = _in_a_process(code, mlflow_server, experiment, str(next(NUMBERS)), str(tmp_path))
    assert rest == ["False", "models", "True", "False"]
    run = MlflowClient(mlflow_server).get_run(run_id)
    assert (run.info.status, run.info.end_time, run.data.metrics, run.data.params) == (
        "FINISHED",
        5,
        {"a/b": 1.0},
        {"p": "1"},
    )
    assert len(run.data.tags["note"]) == 8000
    assert (tmp_path / "down" / "up" / "a.txt").read_text() == "abc"


def test_an_experiment_is_looked_up_once_and_anew_where_it_was_deleted(
    store_uri: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sink_for(store_uri)
    asked: list[str] = []
    look_up = sink._runs.experiment_named

    def spy(name: str) -> str:
        asked.append(name)
        return look_up(name)

    monkeypatch.setattr(sink._runs, "experiment_named", spy)
    first, *_ = (sink.open_run(spec(experiment_name=experiment), None, find_first=False) for _ in range(3))
    assert asked == [experiment]
    client = MlflowClient(store_uri)
    client.delete_experiment(first.experiment_id)
    with pytest.raises(Refused, match=f"mlflow experiments restore -x {first.experiment_id}"):
        sink.open_run(spec(experiment_name=experiment), None, find_first=False)
    client.restore_experiment(first.experiment_id)
    again = sink.open_run(spec(experiment_name=experiment), None, find_first=False)
    assert again.experiment_id == first.experiment_id


def test_a_new_run_is_not_asked_for_where_its_artifacts_are(
    store_uri: str, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sink_for(store_uri)
    run_id = opened(sink, experiment)
    monkeypatch.setattr(sink._runs, "run", None)
    (tmp_path / "a.txt").write_text("a")
    sink.log_artifact(run_id, tmp_path / "a.txt", None)
    monkeypatch.undo()
    assert [info.path for info in MlflowClient(store_uri).list_artifacts(run_id)] == ["a.txt"]


def test_a_run_that_its_program_has_just_created_is_not_asked_for(
    store_uri: str, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, sink = MlflowClient(store_uri), sink_for(store_uri)
    info = client.create_run(client.create_experiment(experiment), run_name="mine").info
    asked = sink.open_run(spec(run_id=info.run_id, created=True), None, find_first=False)
    told = spec(
        run_id=info.run_id,
        created=True,
        experiment_id=info.experiment_id,
        run_name=info.run_name,
        artifact_uri=info.artifact_uri,
    )
    sink = sink_for(store_uri)
    monkeypatch.setattr(sink._runs, "run", None)
    assert sink.open_run(told, None, find_first=False) == asked
    (tmp_path / "a.txt").write_text("a")
    sink.log_artifact(info.run_id, tmp_path / "a.txt", None)
    sink.end_run(info.run_id, "FINISHED", 1_700_000_001_000)
    monkeypatch.undo()
    assert [info.path for info in client.list_artifacts(info.run_id)] == ["a.txt"]
    assert client.get_run(info.run_id).info.status == "FINISHED"


def test_where_the_artifacts_of_a_resumed_run_are_is_asked_once(
    store_uri: str, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = opened(sink_for(store_uri), experiment)
    sink = sink_for(store_uri)
    sink.open_run(spec(run_id=run_id), None, find_first=False)
    monkeypatch.setattr(sink._runs, "run", None)
    (tmp_path / "a.txt").write_text("a")
    sink.log_artifact(run_id, tmp_path / "a.txt", None)


def test_only_what_has_many_writers_is_asked_by_several_at_a_time(mlflow_server: str, sqlite_uri: str) -> None:
    assert sink_for(mlflow_server).limits.at_once == 4
    assert sink_for(sqlite_uri).limits.at_once == 1
