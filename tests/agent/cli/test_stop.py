"""`tailrace stop`: which run is meant, and what is said where none is."""

from __future__ import annotations

import json

import pytest
from mlflow import MlflowClient

from helpers.commands import tailrace


def made(uri: str, name: str, *, over: bool = False) -> str:
    client = MlflowClient(uri)
    run_id = str(client.create_run("0", run_name=name).info.run_id)
    if over:
        client.set_terminated(run_id)
    return run_id


@pytest.mark.parametrize("by", ["name", "id"])
def test_the_run_that_is_running_gets_the_tag_with_who_and_why(sqlite_uri: str, by: str) -> None:
    made(sqlite_uri, "digits", over=True)
    run_id = made(sqlite_uri, "digits")
    text = "digits" if by == "name" else run_id[:10]
    shown = tailrace("stop", text, "--reason", "no hope", "--json", "--tracking-uri", sqlite_uri)
    assert shown.exit_code == 0, shown.output
    stored = MlflowClient(sqlite_uri).get_run(run_id).data.tags["tailrace.stop"]
    assert json.loads(shown.stdout) == {
        "run_id": run_id,
        "run_name": "digits",
        "tag": "tailrace.stop",
        "value": stored,
    }
    assert stored.endswith(": no hope")
    assert "@" in stored


@pytest.mark.parametrize(
    ("runs", "text", "code", "said"),
    [
        ([], "digits", 4, "there is no run 'digits'"),
        ([("digits", True)], "digits", 2, "is FINISHED: there is nothing to stop"),
        ([("digits", False), ("digits", False)], "digits", 4, "fits 2 runs that are running"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_stopped(
    sqlite_uri: str, runs: list[tuple[str, bool]], text: str, code: int, said: str
) -> None:
    ids = [made(sqlite_uri, name, over=over) for name, over in runs]
    shown = tailrace("stop", text, "--tracking-uri", sqlite_uri)
    assert (shown.exit_code, said in shown.stderr) == (code, True), shown.output
    assert not any("tailrace.stop" in MlflowClient(sqlite_uri).get_run(run_id).data.tags for run_id in ids)
