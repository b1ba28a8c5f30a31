"""Dead letters and waiting artifacts: listed, renamed, dropped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers.commands import json_of, tailrace
from helpers.left_sessions import metric_letter, spooled_session
from helpers.stored_runs import SameNames

_ARTIFACTS = """
import os, sys
import tailrace as sdk
from tailrace._session.agent_keeper import Keeper
from tailrace._background.lane import drain
Keeper.start = lambda self: None
sdk.start_run(run_name="files", tracking_uri=sys.argv[1], quiet=True)
for name in ("a", "a/b.txt", "c.txt"):
    sdk.log_text(name, name)
for value in range(2):
    sdk.log_params({"once": value})
drain(30)
os.kill(os.getpid(), 9)
"""


def test_artifacts_that_cannot_be_stored_are_listed_renamed_and_dropped_the_waiting_ones_too(sqlite_uri: str) -> None:
    done = subprocess.run([sys.executable, "-c", _ARTIFACTS, sqlite_uri], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert tailrace("sync").exit_code == 0
    letters = json_of(tailrace("dead", "list", "--json", "--key", "a/b.txt"))["dead_letters"]
    assert [(letter["kind"], letter["pending"]) for letter in letters] == [("artifact", False)]
    assert "a" in letters[0]["reason"]
    listed = tailrace("dead", "list").stdout.splitlines()
    assert sum("once" in line for line in listed) == 2, "one line, and one with the reason"

    assert tailrace("dead", "retry", letters[0]["id"], "--rename", "a/b.txt=../x").exit_code == 2
    retried = tailrace("dead", "retry", "--key", "a/b.txt", "--rename", "a/b.txt=b/b.txt")
    assert "once" not in retried.output
    assert [x["key"] for x in json_of(tailrace("dead", "list", "--json"))["dead_letters"]] == ["once"]
    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    assert {name: (root / name).read_text() for name in ("a", "b/b.txt", "c.txt")} == {
        "a": "a", "b/b.txt": "a/b.txt", "c.txt": "c.txt"
    }  # fmt: skip


@pytest.mark.slow
def test_an_artifact_that_waits_can_be_listed_and_dropped() -> None:
    subprocess.run([sys.executable, "-c", _ARTIFACTS, "http://127.0.0.1:9"], timeout=60, check=False)
    assert tailrace("sync", "--timeout", "2").exit_code == 3
    assert tailrace("dead", "list").exit_code == 0, "nothing has failed by itself"
    waiting = json_of(tailrace("dead", "list", "--pending", "--json"))["dead_letters"]
    assert [(letter["key"], letter["pending"]) for letter in waiting] == [(x, True) for x in ("a", "a/b.txt", "c.txt")]
    assert ":p" in waiting[0]["id"]
    dropped = tailrace("dead", "drop", waiting[1]["id"], "--yes")
    assert "1 entry dropped" in dropped.output
    view = json_of(tailrace("status", "--json"))["sessions"][0]["runs"][0]
    assert (view["pending"], view["dropped"]) == (4, {"discarded by the user": 1})


@pytest.mark.slow
def test_dead_letters_of_a_name_used_twice_are_neither_dropped_nor_retried(same_names: SameNames) -> None:
    time.sleep(1)  # younger ones are said to have begun just now
    for command in (["drop", "--yes"], ["retry"]):
        result = same_names.tailrace("dead", *command, "--run", "base")
        assert result.exit_code == 4, result.output
        for text in (same_names.ids[0][:8], same_names.ids[1][:8], "FINISHED", " ago", "lr=0.1", "lr=0.2"):
            assert text in result.stderr
        assert same_names.ids[2][:8] not in result.stderr, "it has no dead letters"
    assert same_names.tailrace("dead", "drop", "--yes", "--run", "").exit_code == 4, "nothing is no beginning of an id"
    assert len(json.loads(same_names.tailrace("dead", "list", "--json").stdout)["dead_letters"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["retry"], "or say --all, --run RUN or --key KEY"),
        (["retry", "ab:1", "--all"], "or say --all, --run RUN or --key KEY"),
        (["drop"], "or say --all, --run RUN or --key KEY"),
        (["retry", "--all", "--rename", "loss"], "--rename 'loss' is not OLD=NEW"),
        (["retry", "--all", "--rename", "loss="], "--rename 'loss=' is not OLD=NEW"),
    ],
)
def test_what_is_meant_has_to_be_named(arguments: list[str], said: str) -> None:
    result = tailrace("dead", *arguments)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_what_has_one_key_and_reason_is_one_line_with_its_first_and_last_id() -> None:
    session = spooled_session(letters=[*(metric_letter("f1!", step=step) for step in range(12)), metric_letter("b!")])
    end = session.id.rpartition("-")[2]
    lines = tailrace("dead", "list").stdout.splitlines()
    assert [line.split()[:8] for line in lines[1:3]] == [
        [f"{end}:1", "…", "12", "r", "metric", "f1!", "12", "0.5"],
        [f"{end}:13", "r", "metric", "b!", "1", "0.5", "at", "step"],
    ]
    assert lines[3] == "f1!, b!: a bad name"
    assert tailrace("dead", "list", "--key", "b!").stdout.splitlines()[-1] == "b!: a bad name"


def test_a_name_with_an_equals_sign_can_be_renamed() -> None:
    spooled_session(letters=[metric_letter("a=b")])
    missing = tailrace("dead", "retry", "--all", "--rename", "a=c=d")
    assert missing.exit_code == 4
    assert "is named 'a=c'" in missing.stderr, "the new name is what stands behind the last one"


def test_a_session_in_which_something_lives_keeps_its_letters() -> None:
    session = spooled_session(letters=[metric_letter("f1!")])
    lock = session.try_agent_lock()
    assert lock is not None
    result = tailrace("dead", "drop", "--all", "--yes")
    os.close(lock)
    assert (result.exit_code, "is live" in result.stderr) == (5, True)
    assert tailrace("dead", "drop", "--all", "--yes").stdout == "1 entry dropped\n"
    assert json_of(tailrace("dead", "list", "--json")) == {"dead_letters": [], "not_read": []}
