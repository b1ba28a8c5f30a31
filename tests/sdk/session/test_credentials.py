"""Credentials that a program renews: noticed once, and brought to its agent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.sdk_tools import Store, eventually, forget, tracking
from tailrace._runs.run_part import core_of
from tailrace._session.credentials import CredentialsWatch


@pytest.mark.slow
def test_credentials_that_are_renewed_reach_the_agent(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-the-morning")

    with tracking(sqlite_uri, agent="process") as sdk, sdk.start_run() as run:
        assert run.run_id
        connection = core_of(run).connection
        assert connection is not None
        first = (connection.session.shared / "agent.status").read_text()
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-the-evening")
        sdk.log(step=0, loss=0.5)

        def renewed() -> bool:
            try:
                now = (connection.session.shared / "agent.status").read_text()
                pid = int(now.partition('"pid":')[2].partition(",")[0])
                environ = Path(f"/proc/{pid}/environ").read_bytes()
            except (OSError, ValueError):  # between two agents
                return False
            return now != first and b"MLFLOW_TRACKING_TOKEN=of-the-evening" in environ

        eventually(renewed)
        sdk.log(step=1, loss=0.25)
    assert Store(sqlite_uri, run).history("loss") == [(0, 0.5), (1, 0.25)]
    forget(tmp_path)


def test_a_change_of_credentials_is_told_once_and_the_same_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setenv("AWS_SESSION_TOKEN", "1")
    monkeypatch.setattr("tailrace._session.credentials.start_thread", lambda *_: None)
    watch = CredentialsWatch(lambda: told.append(os.environ["AWS_SESSION_TOKEN"]))
    watch.look()
    monkeypatch.setenv("AWS_SESSION_TOKEN", "2")
    watch.look()
    watch.look()
    monkeypatch.setenv("HOME", "/elsewhere")
    watch.look()
    assert told == ["2"]
