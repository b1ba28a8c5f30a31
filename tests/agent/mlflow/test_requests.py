"""Requests to an MLflow server, each sent once; and files through its artifact proxy."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.rest_utils import MlflowHostCreds

from helpers.mlflow_sinks import answering
from tailrace_agent.errors import Lack, Unavailable
from tailrace_agent.mlflow.errors import translate
from tailrace_agent.mlflow.requests import answered, origin, send_once
from tailrace_agent.mlflow.stores import open_repository


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


_ID = "0123456789abcdef" * 2


def test_credentials_are_for_the_tracking_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cr3t")
    path = f"/api/2.0/mlflow-artifacts/artifacts/0/{_ID}/artifacts"
    for where, token in (("https://mlflow.example", "s3cr3t"), ("http://mlflow.example", None), ("http://evil", None)):
        repository = open_repository(where + path, "https://mlflow.example/", 1.0)
        assert repository._host_creds.token == token


@pytest.mark.parametrize("body", ["", "<html>", "[]", "null", "3", '"text"'])
def test_an_answer_that_is_no_json_object_is_none(body: str) -> None:
    with answering("200 OK", body) as server:
        response = send_once(MlflowHostCreds(server.uri), "/x", "GET", 5)
        with pytest.raises((ValueError, MlflowException)) as caught:
            answered(response, "/x")
    error = translate(caught.value, server.uri, remote=True, about_run=True)
    assert isinstance(error, Unavailable), "somebody else has answered, and has stored nothing"


def test_a_redirect_is_not_followed() -> None:
    with (
        answering("200 OK", "{}") as target,
        answering("307 Elsewhere", headers=f"Location: {target.uri}/x\r\n") as server,
    ):
        response = send_once(MlflowHostCreds(server.uri, token="s3cr3t"), "/x", "POST", 5, json={})
        assert (response.status_code, target.requests) == (307, [])
        with pytest.raises(Exception, match="307"):
            answered(response, "/x")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://h", "http://H:80/x", True),
        ("https://h", "https://ada:pw@h:443", True),
        ("https://h", "http://h", False),
        ("https://h", "https://h:8443", False),
        ("https://h", "https://h.evil", False),
    ],
)
def test_credentials_belong_to_a_scheme_a_host_and_a_port(one: str, other: str, same: bool) -> None:
    assert (origin(one) == origin(other)) == same


def test_a_download_that_sends_more_than_was_listed_leaves_nothing(tmp_path: Path) -> None:
    with answering("200 OK", "x" * 100) as server:
        repository = open_repository(f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts", server.uri, 5)
        assert repository.fetch("sub/a.txt", tmp_path, 100).read_text() == "x" * 100
        with pytest.raises(Unavailable, match=r"sends more of 'sub/b\.txt' than the 99 bytes it lists"):
            repository.fetch("sub/b.txt", tmp_path, 99)
    assert [path.name for path in tmp_path.rglob("*.txt")] == ["a.txt"]


def test_a_download_leaves_room_on_the_disk_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200 << 20))
    with answering("200 OK", "x") as server:
        repository = open_repository(f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts", server.uri, 5)
        with pytest.raises(Unavailable, match="is larger than the room in"):
            repository.fetch("a.txt", tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_reported_with_the_tracking_uri(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    with answering("200 OK", '{"files": []}') as server:
        repository = open_repository(f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts", server.uri, 5)
        with pytest.raises(Unavailable, match=f"{server.uri} answered the upload of 'sub/a.txt' with nothing"):
            repository.confirm([(tmp_path / "a.txt", "sub/a.txt")])


def test_a_file_that_its_store_lists_as_what_it_holds_is_a_file_to_mlflow() -> None:
    with answering("200 OK", '{"files": [{"path": "model", "is_dir": false, "file_size": 3}]}') as server:
        repository = open_repository(f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts", server.uri, 5)
        assert repository.list_artifacts("model") == []
        assert [info.path for info in repository.list_directory("model")] == ["model/model"]


@pytest.mark.parametrize("body", ["<html>no</html>", "[]"])
@pytest.mark.parametrize(
    ("status", "lacks", "text"),
    [
        ("401 Who", "login", "asks for other credentials"),
        ("404 Not Found", None, "404"),
        ("502 Bad Gateway", None, "502"),
    ],
)
def test_an_upload_in_parts_that_somebody_else_answers_keeps_the_status(
    status: str, lacks: Lack | None, text: str, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "1")
    (tmp_path / "a.bin").write_bytes(b"abc")
    with answering(status, body) as server:
        repository = open_repository(f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts", server.uri, 5)
        with pytest.raises(Exception, match=status[:3]) as caught:
            repository.put(tmp_path / "a.bin", "a.bin")
    error = translate(caught.value, server.uri, remote=True, about_run=True, upload=True)
    assert isinstance(error, Unavailable)
    assert (error.lacks, text in str(error)) == (lacks, True), str(error)
    assert len(server.requests) == 1
