"""The examples of the documentation: each runs as it stands there, and leaves what its page promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from helpers.sdk_tools import Store, forget

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

pytestmark = [
    pytest.mark.skipif(not EXAMPLES.exists(), reason="the tests run outside of the source tree"),
    pytest.mark.services,  # half a minute each
]


def run(name: str, folder: Path, uri: str, *arguments: str) -> str:
    """Runs an example in an empty directory; what it prints."""
    environ = {**os.environ, "TAILRACE_DIR": str(folder / "tailrace"), "TAILRACE_TRACKING_URI": uri}
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_digits_are_learned_and_a_second_start_goes_on_in_the_run(sqlite_uri: str, tmp_path: Path) -> None:
    assert "best macro F1 0." in run("digits_trainer.py", tmp_path, sqlite_uri, "2")
    run("digits_trainer.py", tmp_path, sqlite_uri, "3")
    forget(tmp_path)
    (found,) = mlflow.MlflowClient(sqlite_uri).search_runs(["0"])
    store = Store(sqlite_uri, found.info.run_id)
    assert [step for step, _ in store.history("epoch/val_f1_macro")] == [1, 2, 3]
    assert [step for step, _ in store.history("train/loss_step")] == list(range(3 * 45))
