"""Whoever MLflow's client is to a server, tailrace is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from helpers.recorder import RUN_ID, Recorder
from helpers.server_ways import mlflows, ours, seen
from tailrace_agent.rest.credentials import identity


def _credentials_file(home: Path) -> None:
    (home / ".mlflow").mkdir()
    (home / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = eve\nmlflow_tracking_password = x\n"
    )


def _netrc(home: Path) -> None:
    (home / ".netrc").write_text("machine 127.0.0.1 login nat password rc\n")
    (home / ".netrc").chmod(0o600)


@pytest.mark.parametrize(
    ("environ", "at", "lay", "sent"),
    [
        ({}, "{uri}", None, None),
        ({"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "pä:w"}, "{uri}", None, "Basic YWRhOnDDpDp3"),
        ({"MLFLOW_TRACKING_TOKEN": "tok"}, "{uri}", None, "Bearer tok"),
        (
            {"MLFLOW_TRACKING_TOKEN": "tok", "MLFLOW_TRACKING_USERNAME": "a", "MLFLOW_TRACKING_PASSWORD": "b"},
            "{uri}",
            None,
            "Basic YTpi",
        ),
        ({"MLFLOW_TRACKING_USERNAME": "ada"}, "{uri}", None, None),
        ({"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_TOKEN": ""}, "{uri}", _credentials_file, "Basic ZXZlOng="),
        ({"MLFLOW_TRACKING_USERNAME": "ada"}, "{uri}", _credentials_file, "Basic YWRhOng="),
        ({"MLFLOW_TRACKING_TOKEN": "tok"}, "{uri}", _netrc, "Basic bmF0OnJj"),
        ({}, "http://ada:pw@{host}/", None, "Basic YWRhOnB3"),
        ({"MLFLOW_TRACKING_TOKEN": "tok"}, "http://ada:pw@{host}", None, "Basic YWRhOnB3"),
        ({}, "{uri}/below//", None, None),
    ],
)
def test_a_login_goes_out_as_mlflow_sends_it(
    environ: dict[str, str],
    at: str,
    lay: Callable[[Path], None] | None,
    sent: str | None,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if lay is not None:
        lay(tmp_path)
    uri = at.format(uri=recorder.uri, host=urlsplit(recorder.uri).netloc)
    for way in (mlflows, ours):
        runs = way(uri)
        runs.delete_run(RUN_ID)
        runs.repository(f"mlflow-artifacts:/7/{RUN_ID}/artifacts").list_directory()
    *theirs, deletion, listing = map(seen, recorder.requests)
    assert [deletion, listing] == theirs
    assert deletion[3].get("authorization") == listing[3].get("authorization") == sent


def test_a_certificate_is_checked_unless_it_is_said_that_it_is_not() -> None:
    assert identity({})[1:] == (True, None)
    assert identity({"MLFLOW_TRACKING_SERVER_CERT_PATH": "/ca.pem"}).verify == "/ca.pem"
    assert identity({"MLFLOW_TRACKING_SERVER_CERT_PATH": ""}).verify is True
    assert identity({"MLFLOW_TRACKING_INSECURE_TLS": "True"}).verify is False
    assert identity({"MLFLOW_TRACKING_CLIENT_CERT_PATH": "/me.pem"}).cert == "/me.pem"
    for wrong in ("", "perhaps"):
        with pytest.raises(ValueError, match="MLFLOW_TRACKING_INSECURE_TLS"):
            identity({"MLFLOW_TRACKING_INSECURE_TLS": wrong})
    with pytest.raises(ValueError, match="both set"):
        identity({"MLFLOW_TRACKING_INSECURE_TLS": "1", "MLFLOW_TRACKING_SERVER_CERT_PATH": "/ca.pem"})
