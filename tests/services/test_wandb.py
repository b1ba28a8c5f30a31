"""The real wandb, offline, beside `tailrace.wandb`: one script, twice, and its own files imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from helpers.commands import tailrace
from helpers.sdk_tools import Store, named

pytest.importorskip("wandb")
pytestmark = pytest.mark.services

SCRIPT = """
    import sys
    {imported}
    import numpy as np

    run = wandb.init(project="digits", name=sys.argv[1], config={{"lr": 0.1, "model": {{"layers": 2}}}}, tags=["a"],
                     group="g", notes="a note", dir=".")
    wandb.config.update({{"seed": 7}})
    wandb.define_metric("val/loss", step_metric="epoch")
    steps = []
    for step in range(20):
        wandb.log({{"train": {{"loss": 1.0 / (step + 1)}}, "acc": step / 20}})
        steps.append(run.step)
    wandb.log({{"a": 1, "b": 1}}, commit=False)
    wandb.log({{"a": 2}}, commit=False)
    wandb.log({{"c": 3}})
    steps.append(run.step)
    wandb.log({{"d": 1}}, step=30)
    wandb.log({{"e": 2}}, step=30)
    wandb.log({{"f": 3}}, step=25)
    wandb.log({{"g": 4}})
    steps.append(run.step)
    wandb.log({{"h": 5}}, step=40, commit=True)
    steps.append(run.step)
    wandb.log({{"throughput(tps)": 100.0, "nan": float("nan"), "text": "word", "flag": True}})
    wandb.log({{"hist": wandb.Histogram([1, 2, 3]), "table": wandb.Table(columns=["x"], data=[[1]])}})
    wandb.log({{"image": wandb.Image(np.zeros((4, 4, 3), np.uint8))}})
    run.summary["best"] = 0.5
    print("STEPS", steps)
    run.log({{"last": 1.0}}, commit=False)
    wandb.finish()
"""


def play(directory: Path, imported: str, name: str, **variables: str) -> str:
    path = directory / "train.py"
    path.write_text(textwrap.dedent(SCRIPT.format(imported=imported)))
    environ = {**os.environ, "TAILRACE_DIR": str(directory / "tailrace"), "WANDB_SILENT": "true", **variables}
    command = [sys.executable, str(path), name]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110, env=environ, cwd=directory)
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("STEPS"))


def imported(uri: str, directory: Path) -> str:
    result = tailrace("import", "wandb", str(directory), "--tracking-uri", uri)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_a_script_gives_the_same_metrics_by_tailrace_and_by_wandb_itself(sqlite_uri: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = play(tmp_path / "theirs", "import wandb", "theirs", WANDB_MODE="offline")
    (tmp_path / "ours").mkdir()
    ours = play(tmp_path / "ours", "import tailrace.wandb as wandb", "ours", MLFLOW_TRACKING_URI=sqlite_uri)
    assert ours == theirs, "run.step after each call"
    imported(sqlite_uri, tmp_path / "theirs" / "wandb")
    mine, other = named(sqlite_uri, "ours"), named(sqlite_uri, "theirs")
    metrics = {key: points for key, points in mine.metrics().items() if not key.startswith("system/")}
    same = {key: points for key, points in other.metrics().items() if not key.startswith("system/")}
    # `nan` equals nothing.
    assert len(metrics.pop("nan")) == len(same.pop("nan")) == 1
    assert metrics == same
    assert (metrics["a"], metrics["best"]) == ([(20, 2.0)], [(44, 0.5)])
    assert "f" not in metrics
    assert mine.params == other.params == {"lr": "0.1", "model.layers": "2", "seed": "7"}
    for key in ("a", "wandb.group", "text", "mlflow.note.content"):
        assert mine.tags[key] == other.tags[key]
    assert mine.status == other.status == "FINISHED"


def test_an_offline_run_is_imported_once_and_goes_on(sqlite_uri: str, tmp_path: Path) -> None:
    play(tmp_path, "import wandb", "whole", WANDB_MODE="offline")
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    whole = log.read_bytes()
    for size in (7, len(whole) // 3, len(whole) // 2, len(whole) - 3):
        log.write_bytes(whole[:size])
        imported(sqlite_uri, tmp_path)
    log.write_bytes(whole)
    told = imported(sqlite_uri, tmp_path)
    assert "continued" in told
    assert "is there already" in imported(sqlite_uri, log.parent)
    found = named(sqlite_uri, "whole")
    assert [step for step, _ in found.history("acc")] == list(range(20))
    assert found.history("throughput__tps")[0][1] == 100.0
    assert any(name.startswith("media/images/") for name in found.artifacts())
    assert json.loads(json.dumps(found.params))["seed"] == "7"
    assert Store(sqlite_uri, found.run_id).status == "FINISHED"
