"""`tailrace run`: `cli/run.py`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from helpers.entry_points import lay_entry_points
from helpers.sdk_tools import Store, command_line, forget


@pytest.fixture
def entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", lay_entry_points(tmp_path))


def _command(tmp_path: Path) -> list[str]:
    (tmp_path / "bin").mkdir(exist_ok=True)  # beside the program, `tailrace` is the directory of its sessions
    return command_line(tmp_path / "bin")


@pytest.mark.slow
def test_run_starts_a_script_whose_calls_go_through_tailrace_and_so_do_those_of_its_children(
    sqlite_uri: str, tmp_path: Path, entry_points: None
) -> None:
    (tmp_path / "train.py").write_text(
        "import subprocess, sys, mlflow\n"
        "print(sys.argv[1:], type(mlflow.MlflowClient()._tracking_client.store).__name__, flush=True)\n"
        "if sys.argv[1:] == ['--lr', '1']:\n"
        "    with mlflow.start_run() as run:\n"
        "        mlflow.log_metric('loss', 0.5)\n"
        "        print(run.info.run_id, flush=True)\n"
        "    subprocess.run([sys.executable, __file__, 'child'], check=True)\n"
        "    sys.exit(7)\n"
    )
    done = subprocess.run(
        [*_command(tmp_path), "run", "train.py", "--lr", "1"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": sqlite_uri},
    )
    assert done.returncode == 7, done.stderr
    lines = done.stdout.split("\n")
    assert lines[0] == "['--lr', '1'] TailraceSqlAlchemyStore"
    assert lines[2] == "['child'] TailraceSqlAlchemyStore"
    run = Store(sqlite_uri, lines[1])
    assert run.history("loss") == [(0, 0.5)]
    assert "tailrace.ledger" in run.tags
    forget(tmp_path)


def test_the_options_of_run_are_those_of_install(tmp_path: Path, entry_points: None) -> None:
    code = "import os; print(os.environ['TAILRACE_INSTALLED'])"
    found = []
    for options in ([], ["--offline"], ["--offline", "--background-artifacts"]):
        command = [*_command(tmp_path), "run", *options, "-c", code]
        found.append(subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout.strip())
    assert found == ["true", "true,offline", "true,offline,background_artifacts"]


def test_run_says_what_it_cannot_start(tmp_path: Path, entry_points: None) -> None:
    done = subprocess.run(
        [*_command(tmp_path), "run", "nothing.py"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (2, "tailrace: there is no nothing.py to be run\n")
