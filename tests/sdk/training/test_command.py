"""`tailrace train`: the command, the overrides, what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_iris

from helpers.sdk_tools import Store, command_line, forget, named
from tailrace.training.__main__ import main

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
CONFIG = """
mlflow: {{tracking_uri: "{uri}", experiment_name: flowers}}
training:
  model: {{framework: sklearn, model_type: decision_tree_classifier}}
  data: flowers.csv
  target_column: target
"""


@pytest.fixture
def config(tmp_path: Path, sqlite_uri: str) -> str:
    load_iris(as_frame=True).frame.to_csv(tmp_path / "flowers.csv", index=False)
    path = tmp_path / "flowers.yaml"
    path.write_text(CONFIG.format(uri=sqlite_uri))
    return str(path)


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "TAILRACE_DIR": str(folder / "tailrace")}
    return subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False, env=environ, cwd=folder)


@pytest.mark.slow
def test_the_command_trains_with_overrides_and_prints_json(config: str, sqlite_uri: str, tmp_path: Path) -> None:
    arguments = [
        "train",
        config,
        "training.model.parameters.max_depth=2",
        "mlflow.run_name=shallow",
        "mlflow.log_model=false",
        "--json",
    ]
    done = run([*command_line(tmp_path), *arguments], tmp_path)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["success"] is True
    assert printed["metrics"]["val_accuracy"] > 0.8
    stored = Store(sqlite_uri, printed["run_id"])
    assert stored.params["max_depth"] == "2"
    assert stored.run.info.run_name == "shallow"
    forget(tmp_path)


@pytest.mark.usefixtures("_trackers_end")
def test_a_mistake_is_one_line_and_a_failed_training_too(
    config: str, sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([config, "training.model.parameters.max_deph=2"]) == 2
    assert "did you mean 'max_depth'?" in capsys.readouterr().err
    assert main([config, "--json", "training.model.parameters.max_deph=2"]) == 2
    assert "did you mean 'max_depth'?" in capsys.readouterr().out
    assert main([config, "training"]) == 2
    assert "'training' is no override: write key=value" in capsys.readouterr().err
    assert main([config, "training.cv=[1"]) == 2
    assert main([config, "training.model.parameters.max_depth=-7", "mlflow.run_name=breaks", "--json"]) == 1
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed["success"] is False
    assert "max_depth" in printed["error"]
    assert "\n" not in printed["error"]
    assert named(sqlite_uri, "breaks").status == "FAILED"


@pytest.mark.slow
def test_the_example_runs_as_it_stands(tmp_path: Path, sqlite_uri: str) -> None:
    for path in EXAMPLES.glob("digits_from_config.*"):
        shutil.copy(path, tmp_path)
    done = run([sys.executable, str(tmp_path / "digits_from_config.py")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "version 1 of the model 'digits'" in done.stdout
    stored = named(sqlite_uri, "boosted digits")
    assert len(stored.history("val/mlogloss_round")) == 20
    assert stored.tags["team"] == "vision"
    forget(tmp_path)
