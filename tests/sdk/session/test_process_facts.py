"""What a process says of itself: enough to find it again, and nothing secret."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tailrace._session.process_facts import facts


@pytest.fixture(autouse=True)
def _called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])


def command(monkeypatch: pytest.MonkeyPatch, *given: str) -> list[str]:
    monkeypatch.setattr(sys, "orig_argv", list(given), raising=False)
    return facts().command


def test_the_command_line_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, "python", "train.py", "--password", "hunter2", "--lr=0.1") == [
        *("python", "train.py", "--password", "***", "--lr=0.1")
    ]


def test_a_program_text_on_the_command_line_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["-c", "x"])
    assert command(monkeypatch, "python", "-c", "secret = 5", "x") == ["python", "-c", "…", "x"]


def test_an_argument_of_that_name_is_a_scripts_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, "python", "train.py", "-c", "config.yaml")[-1] == "config.yaml"


def test_a_long_command_line_is_cut_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = command(monkeypatch, "python", "x" * 5000, *map(str, range(1000)))
    assert len(found) == 300
    assert (len(found[1]), found[1][-1]) == (1000, "…")


def test_of_the_environment_only_what_shows_where_a_run_belongs_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "GITHUB_", "CI_")) or name in ("RANK", "BUILD_URL"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("BUILD_URL", "https://ada:hunter2@ci/job/5")
    monkeypatch.setenv("MY_API_KEY", "hunter2")
    found = facts().environment
    assert found["RANK"] == "3"
    assert "hunter2" not in str(found)
    assert "MY_API_KEY" not in found


def test_each_configuration_file_stands_there_once_the_one_with_the_settings_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "tailrace.toml"
    own.write_text("quiet = true\n")
    monkeypatch.chdir(tmp_path)
    assert facts(["a.yaml", str(own), "a.yaml"]).config_files == [str(own), "a.yaml"]


def test_what_a_process_is_stands_there_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = facts()
    assert (found.pid, found.host) == (os.getpid(), os.uname().nodename)
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    monkeypatch.delattr(sys, "executable")
    monkeypatch.setattr(sys, "executable", None, raising=False)  # a program that embeds Python
    assert facts().executable == ""
