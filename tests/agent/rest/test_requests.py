"""What goes wrong between tailrace and a plain server is told in the words that it has through MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.mlflow_sinks import answering, spec
from helpers.recorder import RUN_ID, Recorder
from helpers.server_ways import TIMEOUT, mlflows, ours
from tailrace_agent.errors import TailraceError
from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.run_store import RunStore
from tailrace_agent.rest.requests import send_once
from tailrace_agent.sinks.mlflow import MlflowSink

_FILE = Path(__file__)


def problem(code: object, message: str = "so it is") -> str:
    return json.dumps({"error_code": code, "message": message})


ANSWERS = [
    (200, ""),
    (200, "[]"),
    (200, "<html>log in</html>"),
    (200, '{"detail": "somebody else"}'),
    (200, '{"run": null}'),
    (200, '{"run": {"info": {"run_id": 3}}}'),
    (200, "{}"),
    (201, "{}"),
    (204, ""),
    (301, ""),
    (400, problem("INVALID_PARAMETER_VALUE")),
    (400, problem("BAD_REQUEST", "QueuePool limit (https://sqlalche.me/e/20/3o7r)")),
    (400, "<html><title>The plain HTTP request was sent to HTTPS port</title>"),
    (400, problem("RESOURCE_ALREADY_EXISTS")),
    (400, problem("INVALID_PARAMETER_VALUE", "must be in the 'active' state")),
    (401, "You are not authenticated"),
    (403, problem("PERMISSION_DENIED")),
    (403, "no"),
    (404, problem("RESOURCE_DOES_NOT_EXIST")),
    (404, problem(404, "page not found")),
    (404, '{"detail": "Not Found"}'),
    (404, "lost"),
    (405, ""),
    (413, "<html>"),
    (429, problem("REQUEST_LIMIT_EXCEEDED")),
    (500, ""),
    (500, problem("INTERNAL_ERROR")),
    (500, problem("INTERNAL_ERROR", "int too large to convert to SQLite INTEGER")),
    (500, '{"error_code": "SOMETHING_NEW"}'),
    (502, "<html>"),
    (503, problem("TEMPORARILY_UNAVAILABLE")),
]
SINK_CALLS: dict[str, Callable[[MlflowSink], object]] = {
    "open": lambda sink: sink.open_run(spec(experiment_name="e"), None, find_first=False),
    "create": lambda sink: sink.open_run(spec(experiment_id="7"), None, find_first=False),
    "find": lambda sink: sink.open_run(spec(experiment_id="7"), None, find_first=True),
    "resume": lambda sink: sink.open_run(spec(run_id=RUN_ID), None, find_first=False),
    "log": lambda sink: sink.log_batch(RUN_ID, metrics=[Point("a", 1.0, 1, 0)]),
    "end": lambda sink: sink.end_run(RUN_ID, "FINISHED", 1),
    "count": lambda sink: sink.count_metrics(RUN_ID, ["a"]),
    "texts": lambda sink: sink.texts_of(RUN_ID),
    "upload": lambda sink: sink.log_artifact(RUN_ID, _FILE, None),
    "look": lambda sink: sink.find_runs("abc"),
}


def _outcome(way: Callable[[str], RunStore], uri: str, call: Callable[[MlflowSink], object]) -> object:
    try:
        return call(MlflowSink(uri, way(uri), TIMEOUT))
    except TailraceError as error:
        return type(error), str(error), vars(error)


@pytest.mark.parametrize("what", SINK_CALLS)
def test_whatever_is_answered_becomes_the_same_error_in_the_same_words(what: str, recorder: Recorder) -> None:
    errors = 0
    for answer in ANSWERS:
        recorder.answers = dict.fromkeys(recorder.answers, answer)
        theirs, own = (_outcome(way, recorder.uri, SINK_CALLS[what]) for way in (mlflows, ours))
        assert own == theirs, answer
        errors += isinstance(own, tuple)
    assert errors > 20


@pytest.mark.parametrize("status", ["RST", "garbage", "503 Away"])
def test_a_server_that_breaks_off_is_reported_in_the_same_words(status: str) -> None:
    with answering(status, headers="Retry-After: 9\r\n") as server:
        theirs, own = (_outcome(way, server.uri, SINK_CALLS["log"]) for way in (mlflows, ours))
    assert own == theirs
    assert len(server.requests) == 2


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "http://nowhere.invalid", "https://127.0.0.1:1"])
def test_a_server_that_is_not_there_is_reported_in_the_same_words(uri: str) -> None:
    theirs, own = (_outcome(way, uri, SINK_CALLS["log"]) for way in (mlflows, ours))
    assert own == theirs


def test_a_certificate_that_is_not_there_is_reported_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        monkeypatch.setenv(variable, "/nowhere/cert.pem")
        theirs, own = (_outcome(way, "https://127.0.0.1:1", SINK_CALLS["log"]) for way in (mlflows, ours))
        assert own == theirs
        monkeypatch.delenv(variable)


def test_a_redirect_is_not_followed_and_takes_no_token_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cr3t")
    with (
        answering("200 OK", "{}") as target,
        answering("307 Elsewhere", headers=f"Location: {target.uri}/x\r\n") as server,
    ):
        response = send_once(f"{server.uri}/x", "POST", 5, json={})
    assert (response.status_code, target.requests) == (307, [])
    assert b"s3cr3t" in server.requests[0]


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_is_used_from_when_it_is_named_until_it_is_not(
    variable: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> list[tuple[str, str]]:
        before = len(recorder.requests)
        for way in (mlflows, ours):
            way("http://tracking.invalid").delete_run(RUN_ID)
        return [(request.method, request.address) for request in recorder.requests[before:]]

    for each in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(each, raising=False)
    through = [("POST", "http://tracking.invalid/api/2.0/mlflow/runs/delete")] * 2
    monkeypatch.setenv(variable, recorder.uri)
    assert asked() == through
    monkeypatch.setenv("no_proxy", "tracking.invalid")
    for way in (mlflows, ours):
        with pytest.raises(Exception, match=r"tracking\.invalid"):
            way("http://tracking.invalid").delete_run(RUN_ID)
    monkeypatch.delenv("no_proxy")
    assert asked() == through


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_of_certificates_is_looked_for_where_requests_would(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(each, raising=False)
    assert "nowhere" not in str(_outcome(ours, "https://127.0.0.1:1", SINK_CALLS["log"]))
    monkeypatch.setenv(variable, "/nowhere/bundle.pem")
    theirs, own = (_outcome(way, "https://127.0.0.1:1", SINK_CALLS["log"]) for way in (mlflows, ours))
    assert own == theirs
    assert "/nowhere/bundle.pem" in str(own)
