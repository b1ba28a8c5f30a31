"""Several processes train together under torchrun, and it is one run."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import mlflow
import pytest

from helpers.sdk_tools import Store, forget

pytestmark = pytest.mark.services

PROGRAM = """
import torch
from torch import nn
from helpers.training import classifier, loader
from tailrace.training import Trainer

model = classifier()
result = Trainer(
    model, loader(40, 4, shuffle=True), loader(12, 4, seed=1), torch.optim.SGD(model.parameters(), lr=0.1),
    nn.CrossEntropyLoss(), num_epochs=3, seed=1, metrics=["accuracy", "f1_macro"], checkpoint_dir="checkpoints",
    resume_from="auto",
).train()
weights = float(sum(parameter.sum() for parameter in model.parameters()))
print(result["val_loss"], result["val_f1_macro"], result["total_steps"], weights)
"""


EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "digits_trainer.py"


def torchrun(folder: Path, uri: str, program: Path, *arguments: str, restarts: int = 0) -> list[str]:
    environ = {**os.environ, "TAILRACE_DIR": str(folder / "tailrace"), "TAILRACE_TRACKING_URI": uri}
    environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--max-restarts={restarts}",
            "--nproc-per-node",
            "2",
            str(program),
            *arguments,
        ],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "was not over after" not in done.stderr, "a run that goes on is not waited for"
    return done.stdout.splitlines()


def test_two_processes_are_one_run_with_the_metrics_of_both(sqlite_uri: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(textwrap.dedent(PROGRAM))
    first, second = torchrun(tmp_path, sqlite_uri, tmp_path / "train.py")
    assert first == second, "the processes disagree on metrics, or on weights"
    forget(tmp_path)
    (run,) = mlflow.MlflowClient(sqlite_uri).search_runs(["0"])
    store = Store(sqlite_uri, run.info.run_id)
    assert store.status == "FINISHED"
    assert [step for step, _ in store.history("train/loss_step")] == list(range(15))  # 40 samples, 4 for each of two
    assert [step for step, _ in store.history("epoch/val_f1_macro")] == [1, 2, 3]
    assert store.history("epoch/val_loss")[-1][1] == float(first.split()[0])
    names = {f"train/batch_time_seconds.{what}" for what in ("mean", "min", "max", "max_rank")}
    assert {len(store.history(name)) for name in names} == {15}, "of both"
    assert "train/batch_time_seconds" not in store.metrics()


def test_a_training_that_torchrun_starts_anew_goes_on_in_its_run(sqlite_uri: str, tmp_path: Path) -> None:
    falls = """
    from tailrace.training import Callback
    import os, signal

    class Falls(Callback):
        def on_epoch_end(self, epoch, metrics):
            if epoch == 2 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
    """
    code = textwrap.dedent(falls) + PROGRAM.replace("resume_from", "callbacks=[Falls()], resume_from")
    (tmp_path / "train.py").write_text(code)
    torchrun(tmp_path, sqlite_uri, tmp_path / "train.py", restarts=1)
    forget(tmp_path)
    (run,) = mlflow.MlflowClient(sqlite_uri).search_runs(["0"])
    store = Store(sqlite_uri, run.info.run_id)
    assert (store.status, store.tags["tailrace.attempt"]) == ("FINISHED", "1")
    assert [step for step, _ in store.history("train/loss_step")] == list(range(15)), "each step once"


def test_the_example_for_one_process_is_one_for_several(sqlite_uri: str, tmp_path: Path) -> None:
    assert len(set(torchrun(tmp_path, sqlite_uri, EXAMPLE, "2"))) == 1
    forget(tmp_path)
    (run,) = mlflow.MlflowClient(sqlite_uri).search_runs(["0"])
    steps = Store(sqlite_uri, run.info.run_id).history("train/loss_step")
    assert [step for step, _ in steps] == list(range(2 * 23))  # 1,438 samples, 64 at once
