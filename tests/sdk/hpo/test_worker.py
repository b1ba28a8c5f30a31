"""A worker by itself: it runs as many trials as it finds turns, and leaves with one line where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import optuna
import pytest

from tailrace.hpo.config import SearchConfig
from tailrace.hpo.storage import open_storage
from tailrace.hpo.worker import Job

OBJECTIVE = """
import os

def objective(trial, params):
    if os.environ.get("LOSE") and trial.number == 1:
        os.rename("lost.journal", "elsewhere.journal")
        os.mkdir("lost.journal")
    return params["x"]
"""

pytestmark = pytest.mark.slow


def work(folder: Path, *, turns: int, function: str = "objective", **environ: str) -> subprocess.CompletedProcess[str]:
    (folder / "objective.py").write_text(OBJECTIVE)
    space: dict[str, Any] = {"x": {"type": "float", "low": 0.0, "high": 1.0}}
    config = SearchConfig(
        study_name="lost", objective=f"objective.py:{function}", search_space=space, n_trials=20, storage="lost.journal"
    )
    storage = open_storage(str(folder / "lost.journal"))
    study = optuna.create_study(study_name="lost", storage=storage, direction="maximize")
    study.set_user_attr("tailrace.parent", {"run": "0" * 16, "run_id": "1" * 32})
    reading, writing = os.pipe()
    os.write(writing, b"." * turns)
    os.close(writing)
    job = Job(search=config, number=0, turns=reading, folder=str(folder))
    try:
        return subprocess.run(
            [sys.executable, "-c", "from tailrace.hpo.worker import main; raise SystemExit(main())"],
            input=msgspec.json.encode(job).decode(),
            text=True,
            capture_output=True,
            cwd=folder,
            env={**os.environ, "TAILRACE_ENABLED": "false", **environ},
            pass_fds=(reading,),
            timeout=120,
            check=False,
        )
    finally:
        os.close(reading)


def test_each_turn_is_a_trial_and_without_turns_it_leaves(tmp_path: Path) -> None:
    done = work(tmp_path, turns=3)
    assert (done.returncode, done.stderr) == (0, "")
    study = optuna.load_study(study_name="lost", storage=open_storage(str(tmp_path / "lost.journal")))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3


def test_an_objective_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = work(tmp_path, turns=1, function="objektive")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("tailrace: ")
    assert "objektive" in line


def test_a_storage_that_goes_away_is_one_line(tmp_path: Path) -> None:
    done = work(tmp_path, turns=5, LOSE="1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "lost.journal" in done.stderr
