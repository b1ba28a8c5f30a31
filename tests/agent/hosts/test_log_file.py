"""The agent's own log: lines that a program reads, in a file of bounded size, and nothing of it anywhere else."""

from __future__ import annotations

import json
import logging
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace_agent.hosts import log_file
from tailrace_agent.hosts.log_file import open_log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "session").mkdir()
    return tmp_path / "session" / "agent.log"


@pytest.fixture(autouse=True)
def _users_logging_is_as_it_was() -> Iterator[None]:
    before = set(logging.Logger.manager.loggerDict), list(logging.root.handlers)
    yield
    assert (set(logging.Logger.manager.loggerDict), list(logging.root.handlers)) == before


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_line_is_json_with_its_level_its_time_and_the_fields_of_all(path: Path) -> None:
    log = open_log(path, "info", session="s-1")
    log.info("run closed", run="abc", n=3)
    log.error("odd", reason="é\n")
    first, second = lines(path)
    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "run closed", "level": "info", "session": "s-1", "run": "abc", "n": 3}
    assert (second["level"], second["reason"]) == ("error", "é\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_below_the_level_is_left_out(path: Path) -> None:
    log = open_log(path, "warning")
    log.info("begun")
    log.warning("odd")
    assert [line["event"] for line in lines(path)] == ["odd"]


def test_a_secret_in_an_errors_text_is_masked(path: Path) -> None:
    open_log(path, "info").warning("failed", reason="no answer from http://ada:geheim7@host/x", failures=3)
    assert "geheim7" not in path.read_text()
    assert lines(path)[0]["failures"] == 3


def test_the_file_goes_on_in_older_ones_and_the_oldest_is_deleted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "_MAX_BYTES", 500)
    log = open_log(path, "info")
    for number in range(50):
        log.info("line", number=number)
    assert sorted(each.name for each in path.parent.iterdir()) == ["agent.log", "agent.log.1", "agent.log.2"]
    assert lines(path)[-1]["number"] == 49
    assert all(each.stat().st_size <= 500 for each in path.parent.iterdir())
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


def test_a_line_that_cannot_be_written_is_no_words_on_the_users_terminal(
    path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "_MAX_BYTES", 100)
    log = open_log(path, "info")
    shutil.rmtree(path.parent)
    for number in range(5):
        log.info("line", number=number)  # its file would be changed for another by now
    assert capfd.readouterr() == ("", "")


def test_a_file_that_cannot_be_made_is_an_error_at_once(path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        open_log(path / "below" / "agent.log", "info")
