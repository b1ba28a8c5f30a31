"""docs/search.md and its example do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import Store, forget, script
from tailrace.hpo.config import read_search

DOCS = Path(__file__).parents[3] / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the tests run outside of the source tree")


def _page() -> str:
    return (DOCS / "search.md").read_text(encoding="utf-8")


def _parent(uri: str) -> Store:
    runs = MlflowClient(uri).search_runs(["0"])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return Store(uri, parent.info.run_id)


@pytest.mark.slow
def test_the_page_begins_with_a_script_of_ten_lines_that_does_what_the_page_says(
    sqlite_uri: str, tmp_path: Path
) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", _page(), re.MULTILINE | re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line]) <= 10
    done = script(tmp_path, code.replace("objective, 30", "objective, 12"), TAILRACE_TRACKING_URI=sqlite_uri)
    assert "<HpoResult 'first-search': 12 trials, " in done.stdout
    parent = _parent(sqlite_uri)
    assert parent.run.data.metrics["total_trials"] == 12
    assert parent.run.data.metrics["pruned_trials"] > 0
    forget(tmp_path)


@pytest.mark.services
def test_the_example_of_pruning_finds_a_good_network(sqlite_uri: str, tmp_path: Path) -> None:
    environ = {**os.environ, "TAILRACE_TRACKING_URI": sqlite_uri, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(DOCS / "examples" / "hpo_pruning.py"), "8"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parent = _parent(sqlite_uri)
    assert parent.run.data.metrics["best_val_accuracy"] > 0.8
    assert parent.run.data.metrics["pruned_trials"] > 0
    forget(tmp_path)


def test_the_configurations_that_are_shown_are_valid(tmp_path: Path) -> None:
    search, _, _ = read_search(DOCS / "examples" / "hpo_pruning.yaml", {})
    assert search.n_trials == 40
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", _page(), re.MULTILINE | re.DOTALL)
    (tmp_path / "digits.yaml").write_text(shown)
    (tmp_path / "train.py").write_text("def objective(trial, params): ...\n")
    search, tracking, _ = read_search(tmp_path / "digits.yaml", {"n_trials": 3})
    assert (search.n_trials, tracking.experiment_name) == (3, "digits")
