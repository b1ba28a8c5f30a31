"""`tailrace logs`: what a run has printed, and what it prints."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers.commands import tailrace
from helpers.left_sessions import live_session
from tailrace_agent.cli.logs import _Following
from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.ipc import status
from tailrace_agent.ipc.console_files import console_file
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import RunStatus


@pytest.fixture(autouse=True)
def _here(quiet_mlflow: None) -> None:
    """These tests call commands."""


def _printed(session: Session, text: str, rank: int = 0) -> Path:
    path = console_file(session.dir, 42, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)
    return path


@pytest.fixture
def session() -> object:
    session = live_session()
    lock = session.try_agent_lock()
    assert lock is not None
    yield session
    let_go(lock)


def test_what_was_printed_is_printed_and_steers_no_terminal(session: Session) -> None:
    _printed(session, "one\ntwo\x1b[2J\nthree\n")
    _printed(session, "of rank 3\n", rank=3)
    assert tailrace("logs", "r").stdout == "one\ntwo\\x1b[2J\nthree\n"
    assert tailrace("logs", "r", "-n", "1").stdout == "three\n"
    assert tailrace("logs", "r", "-n", "0").stdout == ""
    assert tailrace("logs", "r", "--rank", "3").stdout == "of rank 3\n"


def test_of_a_run_that_one_program_has_resumed_it_is_what_was_printed_last(session: Session) -> None:
    for run, printed_at in ((42, 1_000), (41, 2_000), (43, 500)):
        status.write(session.shared / status.run_file(run), RunStatus(run=run, run_name="r", run_id="f" * 32))
        path = console_file(session.dir, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"of {run}\n")
        os.utime(path, (printed_at, printed_at))
    assert tailrace("logs", "f" * 32).stdout == "of 41\n"


def test_following_goes_on_until_the_agent_has_left(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    _printed(session, "one\n")
    alive = iter([True, True, False])
    monkeypatch.setattr(Session, "agent_alive", lambda self: next(alive))
    thread = threading.Timer(0.1, _printed, (session, "two\n"))
    thread.start()
    assert tailrace("logs", "r", "-f").stdout == "one\ntwo\n"
    thread.join()


def test_another_file_of_which_the_middle_is_left_out_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_text("".join(f"line {n}\n" for n in range(100)))
    following = _Following(path)
    assert "".join(following.read()).endswith("line 99\n")
    other = tmp_path / "other"
    other.write_text("line 0\n…\n" + "".join(f"line {n}\n" for n in range(50, 103)))
    other.replace(path)
    assert "".join(following.read()) == "line 100\nline 101\nline 102\n"
    other.write_text("something else\n")
    other.replace(path)
    assert "".join(following.read()) == ""
    with path.open("a") as file:
        file.write("more\n")
    assert "".join(following.read()) == "more\n"


def test_of_a_run_elsewhere_it_is_what_mlflow_has(sqlite_uri: str) -> None:
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run("0", run_name="base").info.run_id
    result = tailrace("logs", "base", "--tracking-uri", sqlite_uri)
    assert result.exit_code == 4
    assert "did not keep its console" in result.stderr
    client.log_text(run_id, "hello\n", "console.log")
    assert tailrace("logs", "base", "--tracking-uri", sqlite_uri).stdout == "hello\n"
    assert tailrace("logs", "base", "-f", "--tracking-uri", sqlite_uri).exit_code == 4
