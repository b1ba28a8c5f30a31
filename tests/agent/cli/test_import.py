"""`tailrace import`: what it prints, what it refuses, and the program that takes reports."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from helpers.commands import tailrace
from helpers.stored_runs import NOT_FINITE, POINTS, Archived, all_runs
from tailrace_agent.cli import import_


@pytest.mark.slow
def test_each_run_is_one_line_and_what_is_there_already_is_named(archived: Archived, sqlite_uri: str) -> None:
    first = tailrace("import", archived.archive, "--tracking-uri", sqlite_uri)
    assert first.exit_code == 0, first.output
    parent, child, last = first.stdout.splitlines()
    assert parent.endswith(f"(made): {len(POINTS) + len(NOT_FINITE):,} points, 2 artifacts")
    assert child.endswith("(made): 0 points, 0 artifacts")
    assert last == f"2 runs imported into {sqlite_uri}"
    again = tailrace("import", archived.archive, "--tracking-uri", sqlite_uri)
    assert again.stdout.splitlines()[-1] == f"0 runs imported into {sqlite_uri}, 2 there before"
    assert again.stdout.count("is there already") == 2


def test_a_directory_without_reports_and_a_file_that_is_not_there_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    nothing = tailrace("import", tmp_path / "empty")
    assert (nothing.exit_code, "holds no local reports" in nothing.stderr) == (2, True)
    assert tailrace("import", tmp_path / "nosuch.zip").exit_code == 2


def test_reports_are_imported_by_a_program_that_gets_every_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "metrics.json").write_text("{}")
    started: list[list[str]] = []

    def run(command: list[str], **options: object) -> CompletedProcess[bytes]:
        started.append(command)
        return CompletedProcess(command, 4)

    monkeypatch.setattr(import_.subprocess, "run", run)
    options = ["--experiment", "mine", "--tracking-uri", "sqlite:///x.db", "--max-size", "1KiB", "--json"]
    assert tailrace("import", "reports", *options).exit_code == 4, "that of the program"
    wanted = ["--tracking-uri", "sqlite:///x.db", "--experiment-name", "mine", "--max-size", "1024", "--json", "--"]
    assert started[0][-len(wanted) - 1 :] == [*wanted, "reports"]


def test_a_bound_of_what_an_archive_becomes_is_kept(archived: Archived, sqlite_uri: str) -> None:
    refused = tailrace("import", archived.archive, "--max-size", "10KiB", "--tracking-uri", sqlite_uri)
    assert refused.exit_code == 1
    assert "`--max-size` allows more" in refused.stderr
    assert all_runs(sqlite_uri) == []
