"""A training of PyTorch, from its first step to what MLflow has of it; and on from there after it was stopped."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from helpers.sdk_tools import Store, forget, newer_than_mlflow_3_7, tracking
from helpers.training import ListTracker, classifier, loader
from tailrace import CallError
from tailrace.training import Callback, Trainer
from tailrace.training.pytorch import checkpoints, logged_steps


def trainer(tracker: Any, model: nn.Module | None = None, **arguments: Any) -> Trainer:
    model = classifier() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    return Trainer(
        model,
        loader(shuffle=True),
        loader(16, seed=1),
        optimizer,
        nn.CrossEntropyLoss(),
        device="cpu",
        tracker=tracker,
        progress=False,
        **{"seed": 1, **arguments},
    )


def test_a_training_leaves_steps_epochs_a_summary_params_and_checkpoints(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as tracker:
        result = trainer(tracker, num_epochs=2, metrics=["accuracy", "f1_macro"], monitor="val_f1_macro").train()
        assert result.run_id is not None
        store = Store(sqlite_uri, result.run_id)
    assert store.status == "FINISHED"
    steps = [step for step, _ in store.history("train/loss_step")]
    assert steps == list(range(12))
    for name in ("accuracy_step", "learning_rate", "batch_time_seconds", "data_wait_seconds", "samples_per_second"):
        assert len(store.history(f"train/{name}")) == 12, name
    for name in ("train_loss", "train_f1_macro", "val_loss", "val_accuracy", "val_f1_macro", "duration_seconds"):
        assert [step for step, _ in store.history(f"epoch/{name}")] == [1, 2], name
    final = {key: value for key, value in store.run.data.metrics.items() if key.startswith("final/")}
    assert set(final) == {
        *("final/best_val_f1_macro", "final/best_epoch", "final/total_epochs", "final/total_steps"),
        "final/early_stopped",
    }
    assert result["best_val_f1_macro"] == final["final/best_val_f1_macro"]
    assert (result["total_epochs"], result["total_steps"], result["early_stopped"]) == (2, 12, False)
    assert store.params["optimizer.class"] == "Adam"
    assert {"checkpoints/best_checkpoint.pt", "checkpoints/last_checkpoint.pt", "config.yaml"} <= {*store.artifacts()}


def test_inside_of_a_run_it_logs_to_that_one_and_leaves_it_active(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as tracker:
        with tracker.start_run() as run:
            result = trainer(tracker).train()
            assert tracker.active_run() is run
            tracker.log(step=0, own=1.0)
        assert result.run_id == run.run_id
        store = Store(sqlite_uri, run)
    assert {"own", "train/loss_step", "final/best_epoch"} <= set(store.run.data.metrics)


def test_inside_of_a_run_that_mlflow_has_begun_it_logs_to_that_one_and_does_not_end_it(sqlite_uri: str) -> None:
    mlflow.set_tracking_uri(sqlite_uri)
    try:
        with mlflow.start_run() as active, tracking(sqlite_uri) as tracker:
            result = trainer(tracker).train()
            seen = Store(sqlite_uri, active.info.run_id)
            mlflow.log_metric("own", 1.0)
    finally:
        mlflow.set_tracking_uri(None)
    assert result.run_id == active.info.run_id
    assert seen.status == "RUNNING"
    assert len(seen.history("train/loss_step")) == 6  # all of it, before the block has ended
    assert Store(sqlite_uri, active.info.run_id).status == "FINISHED"


@newer_than_mlflow_3_7("keeps models of a run in another place")
def test_the_model_is_that_of_its_best_epoch_and_the_object_keeps_the_last(sqlite_uri: str) -> None:
    weights: dict[int, Any] = {}
    model = classifier()

    class Noting(Callback):
        def on_epoch_end(self, epoch: int, metrics: Any) -> None:
            weights[epoch] = {name: value.clone() for name, value in model.state_dict().items()}

    with tracking(sqlite_uri) as tracker:
        # Judged by the largest loss, the first epoch is the best.
        result = trainer(
            tracker, model, num_epochs=3, mode="max", callbacks=[Noting()], registered_model_name="blobs"
        ).train()
        tracker.flush()
        loaded = tracker.load_model("models:/blobs/1")
    assert result["best_epoch"] == 1
    assert result.model_version == "1"
    assert all(torch.equal(value, weights[3][name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, weights[1][name]) for name, value in loaded.state_dict().items())
    assert mlflow.MlflowClient(sqlite_uri).get_model_version("blobs", "1").run_id == result.run_id


def test_it_stops_when_it_does_not_get_better_and_says_so(sqlite_uri: str) -> None:
    frozen = classifier()
    with tracking(sqlite_uri) as tracker:
        result = Trainer(
            frozen,
            loader(),
            loader(16, seed=1),
            torch.optim.SGD(frozen.parameters(), lr=0.0),
            nn.CrossEntropyLoss(),
            num_epochs=9,
            early_stopping_patience=2,
            tracker=tracker,
            progress=False,
        ).train()
    assert (result["total_epochs"], result["best_epoch"], result["early_stopped"]) == (3, 1, True)


def test_any_tracker_will_do() -> None:
    tracker = ListTracker()
    result = trainer(tracker, num_epochs=2, log_model=True, log_system_metrics=True).train()
    assert result.run_id is None
    assert len(tracker.of("train/loss_step")) == 12
    assert [value for _, value in tracker.of("final/total_epochs")] == [2.0]
    assert tracker.files == ["config.yaml", "checkpoints/best_checkpoint.pt", "checkpoints/last_checkpoint.pt"]


class Stops(Callback):
    """Ends the training in the middle of an epoch."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, step: int) -> None:
        if step == self._step:
            raise RuntimeError("stopped")


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_in_its_run_as_if_nothing_had_been(sqlite_uri: str, tmp_path: Path) -> None:
    whole, parts = classifier(), classifier()
    with tracking(sqlite_uri) as tracker:
        reference = trainer(tracker, whole, num_epochs=4).train()
        for stop in (3, 9, 16):
            with pytest.raises(RuntimeError, match="stopped"):
                trainer(
                    tracker, parts, num_epochs=4, checkpoint_dir=tmp_path, resume_from="auto", callbacks=[Stops(stop)]
                ).train()
            parts = classifier()
        result = trainer(tracker, parts, num_epochs=4, checkpoint_dir=tmp_path, resume_from="auto").train()
        assert reference.run_id is not None
        assert result.run_id is not None
        expected, found = Store(sqlite_uri, reference.run_id), Store(sqlite_uri, result.run_id)
    assert all(map(torch.equal, parts.state_dict().values(), whole.state_dict().values()))
    assert found.history("train/loss_step") == expected.history("train/loss_step")
    assert found.history("epoch/val_loss") == expected.history("epoch/val_loss")
    assert found.status == "FINISHED"
    assert len(mlflow.MlflowClient(sqlite_uri).search_runs(["0"])) == 2


def test_what_was_trained_with_tracking_off_is_not_taken_for_logged(sqlite_uri: str, tmp_path: Path) -> None:
    def go_on(epochs: int, **settings: Any) -> Any:
        with tracking(sqlite_uri, **settings) as tracker:
            return trainer(tracker, num_epochs=epochs, checkpoint_dir=tmp_path, resume_from="auto").train()

    assert go_on(1, enabled=False).run_id is None
    assert checkpoints.load(tmp_path / checkpoints.LAST)["run"] is None, "nobody looks for a run that there never was"
    run_id = go_on(2).run_id
    assert run_id is not None
    go_on(3, enabled=False)
    assert checkpoints.load(tmp_path / checkpoints.LAST)["run"] == run_id
    assert logged_steps.read(tmp_path) == (11, 2)
    assert go_on(4).run_id == run_id
    steps = [step for step, _ in Store(sqlite_uri, run_id).history("train/loss_step")]
    assert steps == [*range(6, 12), *range(18, 24)]


def test_a_checkpoint_whose_run_is_gone_goes_on_in_a_new_one(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tailrace.training.pytorch.resumption._SETTLES", 0.1)
    with tracking(sqlite_uri) as tracker:
        first = trainer(tracker, num_epochs=1, checkpoint_dir=tmp_path).train()
        with sqlite3.connect(sqlite_uri.removeprefix("sqlite:///")) as database:
            for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
                database.execute(f"delete from {table} where run_uuid = ?", (first.run_id,))
        second = trainer(tracker, num_epochs=2, checkpoint_dir=tmp_path, resume_from="auto").train()
        assert second.run_id not in (None, first.run_id)
        assert second.run_id is not None
        store = Store(sqlite_uri, second.run_id)
    assert [step for step, _ in store.history("train/loss_step")] == list(range(6, 12))
    assert second["total_epochs"] == 2


def test_a_training_that_was_over_is_not_summed_up_twice(sqlite_uri: str, tmp_path: Path) -> None:
    with tracking(sqlite_uri) as tracker:
        for epochs in (1, 1, 2, 2):
            result = trainer(tracker, num_epochs=epochs, checkpoint_dir=tmp_path, resume_from="auto").train()
            assert result["total_epochs"] == epochs
        assert result.run_id is not None
        store = Store(sqlite_uri, result.run_id)
    assert store.history("final/total_steps") == [(5, 6.0), (11, 12.0)]
    assert store.status == "FINISHED"


PROGRAM = """
import sys, time
import tailrace
from helpers.training import classifier, loader
import torch
from torch import nn
from tailrace.training import Callback, Trainer
from tailrace.training.pytorch import checkpoints, logged_steps

class Slow(Callback):
    def on_step(self, step):
        time.sleep(0.002)
        print(step, flush=True)

if __name__ == "__main__":
    model = classifier()
    Trainer(
        model, loader(240, shuffle=True), loader(16), torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(),
        num_epochs=6, seed=1, checkpoint_dir="checkpoints", resume_from="auto", callbacks=[Slow()], progress=False,
    ).train()
"""


def _until(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return


def killed_and_resumed(uri: str, folder: Path, kills: list[int]) -> list[tuple[int, float]]:
    """Kills a training at those steps, lets it go on each time, and gives the loss of each step of the one run."""
    (folder / "train.py").write_text(textwrap.dedent(PROGRAM))
    environ = {
        **os.environ,
        "TAILRACE_DIR": str(folder / "tailrace"),
        "TAILRACE_TRACKING_URI": uri,
        "TAILRACE_QUIET": "1",
    }
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    for step in [*kills, None]:
        process = subprocess.Popen(
            [sys.executable, "train.py"], cwd=folder, env=environ, stdout=subprocess.PIPE, text=True
        )
        if step is not None:
            _until(process, step)
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=100)
        assert process.returncode == (0 if step is None else -signal.SIGKILL)
    forget(folder)
    (run,) = mlflow.MlflowClient(uri).search_runs(["0"])
    assert (run.info.status, run.data.tags.get("tailrace.end_reason")) == ("FINISHED", None)
    return Store(uri, run.info.run_id).history("train/loss_step")


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_in_its_run_without_a_gap_or_a_double(
    sqlite_uri: str, tmp_path: Path
) -> None:
    found = killed_and_resumed(sqlite_uri, tmp_path, [75])
    assert sorted(step for step, _ in found) == list(range(180))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_training_that_is_killed_again_and_again_has_the_loss_of_one_that_is_not(
    sqlite_uri: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    once, often = tmp_path / "once", tmp_path / "often"
    once.mkdir()
    often.mkdir()
    kills = sorted(rng.integers(0, 175, 12).tolist())
    found = killed_and_resumed(sqlite_uri, often, kills)
    assert sorted(step for step, _ in found) == list(range(180))
    model = classifier()
    tracker = ListTracker()
    Trainer(
        model,
        loader(240, shuffle=True),
        loader(16),
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        num_epochs=6,
        seed=1,
        tracker=tracker,
        progress=False,
    ).train()
    assert sorted(found) == tracker.of("train/loss_step")


@pytest.mark.slow
def test_inside_of_another_run_a_training_goes_on_in_its_own_and_the_other_is_active_again(
    sqlite_uri: str, tmp_path: Path
) -> None:
    with tracking(sqlite_uri) as tracker:
        first = trainer(tracker, num_epochs=1, checkpoint_dir=tmp_path).train()
        with tracker.start_run() as outer:
            second = trainer(tracker, num_epochs=2, checkpoint_dir=tmp_path, resume_from="auto").train()
            assert tracker.active_run() is outer
        with tracker.start_run(run_id=first.run_id):  # the user's program begins its run again by itself
            third = trainer(tracker, num_epochs=3, checkpoint_dir=tmp_path, resume_from="auto").train()
        assert first.run_id == second.run_id == third.run_id
        store = Store(sqlite_uri, outer)
        assert first.run_id is not None
        resumed = Store(sqlite_uri, first.run_id)
    assert not store.run.data.metrics
    assert [step for step, _ in resumed.history("train/loss_step")] == list(range(18))


def test_an_error_inside_of_a_run_of_mlflow_leaves_all_that_was_logged_and_says_why(sqlite_uri: str) -> None:
    mlflow.set_tracking_uri(sqlite_uri)
    try:
        with tracking(sqlite_uri) as tracker:
            with pytest.raises(RuntimeError, match="stopped"), mlflow.start_run() as active:
                trainer(tracker, callbacks=[Stops(3)]).train()
            store = Store(sqlite_uri, active.info.run_id)
    finally:
        mlflow.set_tracking_uri(None)
    assert store.status == "FAILED"
    assert len(store.history("train/loss_step")) == 4
    assert (store.run.data.tags["error.type"], store.run.data.tags["error.message"]) == ("RuntimeError", "stopped")


def test_a_checkpoint_that_cannot_be_written_stops_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Blocks(Callback):
        def on_epoch_end(self, epoch: int, metrics: Any) -> None:
            part = tmp_path / ".last_checkpoint.pt.part"
            if epoch == 1:
                part.mkdir()
            elif epoch == 2:
                part.rmdir()

    tracker = ListTracker()
    result = trainer(tracker, num_epochs=3, checkpoint_dir=tmp_path, callbacks=[Blocks()]).train()
    assert result["total_epochs"] == 3
    assert "the checkpoint of epoch 2 is not written, and training goes on" in capsys.readouterr().err
    assert torch.load(tmp_path / "last_checkpoint.pt", weights_only=True)["epoch"] == 3


def test_a_checkpoint_of_another_training_in_the_folder_is_no_artifact_of_this_one(tmp_path: Path) -> None:
    trainer(ListTracker(), checkpoint_dir=tmp_path).train()
    tracker = ListTracker()
    with pytest.raises(RuntimeError, match="stopped"):
        trainer(tracker, checkpoint_dir=tmp_path, callbacks=[Stops(2)]).train()
    assert tracker.files == ["config.yaml", "checkpoints/last_checkpoint.pt"]


def test_a_training_that_goes_on_in_another_folder_keeps_its_best_checkpoint(tmp_path: Path) -> None:
    # Judged by the largest loss, the first epoch stays the best.
    trainer(ListTracker(), mode="max", checkpoint_dir=tmp_path / "old").train()
    tracker = ListTracker()
    arguments: dict[str, Any] = {"mode": "max", "num_epochs": 2, "checkpoint_dir": tmp_path / "new"}
    assert trainer(tracker, resume_from=tmp_path / "old", **arguments).train()["best_epoch"] == 1
    assert "checkpoints/best_checkpoint.pt" in tracker.files
    assert torch.load(tmp_path / "new" / "best_checkpoint.pt", weights_only=True)["epoch"] == 1


def test_a_checkpoint_of_other_parts_is_an_error_before_anything_begins(tmp_path: Path) -> None:
    trainer(ListTracker(), checkpoint_dir=tmp_path).train()
    tracker = ListTracker()
    with pytest.raises(CallError, match=r"does not fit the model: Error.*\n.*Missing key"):
        trainer(tracker, nn.Linear(4, 3), checkpoint_dir=tmp_path, resume_from="auto").train()
    model = classifier()
    with pytest.raises(CallError, match="does not fit the optimizer: that was a Adam, and this is a SGD"):
        Trainer(
            *(model, loader(), None, torch.optim.SGD(model.parameters()), nn.CrossEntropyLoss()),
            checkpoint_dir=tmp_path,
            resume_from="auto",
            tracker=tracker,
        ).train()
    assert tracker.runs == []


def test_trained_again_it_is_judged_anew_and_finds_the_checkpoint_of_the_first_time(tmp_path: Path) -> None:
    class Once(Callback):
        stopped = False

        def on_step(self, step: int) -> None:
            if step == 8 and not self.stopped:
                self.stopped = True
                raise RuntimeError("stopped")

    twice = trainer(ListTracker(), num_epochs=2, checkpoint_dir=tmp_path, resume_from="auto", callbacks=[Once()])
    with pytest.raises(RuntimeError, match="stopped"):
        twice.train()
    assert twice.train()["total_steps"] == 12
    again = trainer(ListTracker(), num_epochs=2)
    first = again.train()
    assert again.train()["best_epoch"] == 2
    assert first["best_epoch"] == 2


def test_a_model_is_logged_as_for_predictions_with_the_first_sample_as_its_example() -> None:
    seen: list[Any] = []

    class Keeping(ListTracker):
        def log_model(self, model: nn.Module, name: str, *, input_example: Any, registered_model_name: Any) -> None:
            seen.extend([model.training, input_example.shape])

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    once = iter([next(iter(loader()))])  # nothing is left of it at the end
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Trainer(
        model, once, None, optimizer, nn.CrossEntropyLoss(), log_model=True, tracker=Keeping(), progress=False
    ).train()
    assert seen == [False, (1, 4)]
    assert model.training
