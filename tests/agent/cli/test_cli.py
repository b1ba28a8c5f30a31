"""The command line as a whole: its help, its errors, and the way of a crash through all of its commands."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from helpers.commands import json_of, tailrace
from helpers.left_sessions import crash
from tailrace_agent.cli import _COMMANDS
from tailrace_agent.errors import (
    NotFound,
    RunGone,
    SessionError,
    SettingsError,
    StateDirError,
    StoreRefused,
    Unavailable,
)


def test_help_names_every_command_and_exit_code_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tailrace_agent.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'rich', 'mlflow', 'msgspec', 'sqlalchemy', 'psutil', 'structlog'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    for word in (*_COMMANDS, "Exit codes", "130"):
        assert word in done.stdout
    assert re.search(r"(?m)^  tailrace status +what goes on here$", done.stdout)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_help_of_its_own(name: str) -> None:
    result = tailrace(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")
    assert "\\b" not in result.output


def test_a_mistyped_command_is_a_usage_error_that_knows_what_was_meant() -> None:
    result = tailrace("stauts")
    assert result.exit_code == 2
    assert "did you mean `tailrace status`?" in result.stderr


def test_a_wrong_setting_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_NICE", "99")
    result = tailrace("status")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "TAILRACE_NICE" in result.stderr


def test_nothing_logged_is_nothing_wrong() -> None:
    assert tailrace("status").exit_code == 0
    assert "no sessions here" in tailrace("status").output
    assert "nothing is left over" in tailrace("sync").output
    assert "no dead letters" in tailrace("dead", "list").output
    assert "nothing to delete" in tailrace("clean").output
    assert tailrace("sync", "nosuch").exit_code == 4


@pytest.mark.slow
def test_what_a_crash_left_is_seen_delivered_verified_and_mended(sqlite_uri: str) -> None:
    session = crash(sqlite_uri)
    seen = tailrace("status")
    assert seen.exit_code == 1
    assert "leftover" in seen.output
    assert "in ring" in seen.output

    synced = tailrace("sync")
    assert synced.exit_code == 0, synced.output
    assert "nothing is left" in synced.stderr
    after = json_of(tailrace("status", "--json"))["sessions"][0]
    assert (after["state"], after["runs"][0]["state"]) == ("finished", "KILLED")
    assert (after["runs"][0]["delivered"], after["runs"][0]["dead"], after["runs"][0]["pending"]) == (301, 1, 0)

    verified = tailrace("verify", "crashed")
    assert verified.exit_code == 0, verified.output
    assert "equal. 300 points delivered, 300 in MLflow" in verified.output

    dead = tailrace("dead", "list", "--json")
    assert dead.exit_code == 1
    (letter,) = json_of(dead)["dead_letters"]
    assert (letter["key"], letter["value"]) == ("lr", "0.2")
    assert "Changing param" in letter["reason"]

    assert tailrace("dead", "retry", letter["id"]).exit_code == 1  # as it is, it is refused again
    assert tailrace("dead", "retry", "--all", "--rename", "nosuch=x").exit_code == 4
    retried = tailrace("dead", "retry", "--all", "--rename", "lr=later")
    assert retried.exit_code == 0, retried.output
    assert tailrace("dead", "list").exit_code == 0
    with closing(sqlite3.connect(sqlite_uri.removeprefix("sqlite:///"))) as db:
        assert db.execute("SELECT value FROM params WHERE key = 'later'").fetchall() == [("0.2",)]
        db.execute("DELETE FROM metrics WHERE key = 'loss' AND step = 9")
        db.commit()

    differs = tailrace("verify", after["runs"][0]["run"][:6], "--json")
    assert differs.exit_code == 1
    assert json_of(differs)["differing"] == {"loss": [300, 299]}
    assert "DIFFERENT" in tailrace("verify", "crashed").output

    shutil.rmtree(session.dir)  # another machine, or a month later: only the tag of the run is left
    by_tag = tailrace("verify", after["runs"][0]["run_id"], "--tracking-uri", sqlite_uri)
    assert by_tag.exit_code == 1
    assert "all metrics together" in by_tag.output
    assert tailrace("verify", "nosuch", "--tracking-uri", sqlite_uri).exit_code == 4


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SettingsError("nice is 99"), 2, "nice is 99"),
        (StoreRefused("not a database"), 3, "not a database"),
        (Unavailable("it is away"), 3, "it is away"),
        (RunGone("it was deleted"), 4, "it was deleted"),
        (NotFound("no such run"), 4, "no such run"),
        (SessionError("no such session"), 4, "no such session"),
        (StateDirError("not to be read"), 1, "not to be read"),
        (sqlite3.OperationalError("disk I/O error"), 1, "is the disk full, or another process at work?"),
        (PermissionError(13, "Permission denied", "/state"), 1, "/state: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_expected_error_of_a_command_is_one_line_and_an_exit_code(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(settings: object) -> None:
        raise error

    monkeypatch.setattr("tailrace_agent.cli._look.look_at_all", fails)
    result = tailrace("status")
    assert result.exit_code == code
    (line,) = result.stderr.split("\n")[-2:-1]
    assert line.startswith("tailrace: ")
    assert said in line


def test_an_error_that_nobody_expected_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace_agent.cli._look.look_at_all", lambda settings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tailrace("status")


def test_an_error_in_a_directory_that_was_deleted_names_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    result = tailrace("runs")
    assert result.exit_code == 1
    assert "the working directory was deleted: go to another" in result.stderr
