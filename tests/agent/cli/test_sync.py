"""`tailrace sync`: what is left is delivered, or it is reported what keeps it."""

from __future__ import annotations

import os

import pytest

from helpers.commands import json_of, tailrace
from helpers.left_sessions import CLOSED, crash, live_session
from helpers.sdk_tools import newer_than_mlflow_3_7


@newer_than_mlflow_3_7("still takes plain files")
def test_a_refused_store_is_named_and_the_run_can_be_sent_elsewhere(sqlite_uri: str) -> None:
    crash("./plain-files")
    refused = tailrace("sync")
    assert refused.exit_code == 3
    assert "MLFLOW_ALLOW_FILE_STORE" in refused.stderr
    assert "--tracking-uri URI" in refused.stderr
    assert "MLFLOW_ALLOW_FILE_STORE" in tailrace("status").output
    assert tailrace("sync", "--tracking-uri", "host:5000").exit_code == 3  # checked before anything is changed

    moved = tailrace("sync", "--tracking-uri", sqlite_uri)
    assert moved.exit_code == 0, moved.output
    assert "begins anew" in moved.stderr
    assert tailrace("verify", "crashed").exit_code == 0


@pytest.mark.slow
def test_a_store_that_is_away_ends_the_patience_with_an_exit_code_of_its_own() -> None:
    session = crash(CLOSED)
    result = tailrace("sync", session.id.rpartition("-")[2], "--timeout", "2", "--json")
    assert result.exit_code == 3
    (one,) = json_of(result)["sessions"]
    assert (one["outcome"], one["pending"]) == ("unreachable", 302)
    assert "is the server running" in one["reasons"][0]
    assert tailrace("verify", "crashed").exit_code == 1  # not in MLflow yet


@pytest.mark.parametrize("state", ["refused a moment ago", "damaged", "held up", "dead letters", "no directory"])
def test_what_status_calls_left_over_sync_delivers_or_explains_with_its_exit_code(sqlite_uri: str, state: str) -> None:
    lock = None
    if state == "held up":
        session = live_session()
        lock = session.try_agent_lock()
    else:
        session = crash("./plain-files" if state == "refused a moment ago" else sqlite_uri)
    if state == "refused a moment ago":
        (session.dir / "refused").touch()
    elif state == "damaged":
        (session.dir / "spool.db").write_bytes(b"no database" * 1000)
    elif state == "dead letters":
        assert tailrace("sync").exit_code == 0
    elif state == "no directory":
        (session.dir / "agent.log").unlink(missing_ok=True)
        (session.dir / "agent.log").mkdir()
    assert tailrace("status").exit_code == 1
    synced = tailrace("sync", "--timeout", "20" if lock is None else "0.3")
    said = synced.stdout + synced.stderr
    assert session.id in said
    if synced.exit_code == 0:
        assert tailrace("dead", "drop", "--all", "--yes").exit_code in (0, 4)
        assert tailrace("status").exit_code == 0
    else:
        expected = {
            "refused a moment ago": (3, "MLFLOW_ALLOW_FILE_STORE"),
            "held up": (3, "waiting for rain"),
            "damaged": (1, "set aside"),
            "dead letters": (1, "1 dead letter (`tailrace dead list`)"),
            "no directory": (1, "agent.log"),
        }[state]
        assert (synced.exit_code, expected[1] in said) == (expected[0], True), said
    if lock is not None:
        os.close(lock)


def test_a_session_of_another_host_is_left_alone_unless_forced(sqlite_uri: str) -> None:
    session = crash(sqlite_uri)
    session.save(hostname="elsewhere")
    result = tailrace("sync", session.id)
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert "on elsewhere" in tailrace("status").output
    assert tailrace("sync", "--force").exit_code == 0
