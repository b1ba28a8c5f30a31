"""One training: what is kept of each epoch, what is logged at the end, and what happens when it ends otherwise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.training import ListTracker, classifier, loader
from tailrace.training.pytorch import checkpoints
from tailrace.training.pytorch.course import Course
from tailrace.training.pytorch.loop import Loop
from tailrace.training.pytorch.monitor import Monitor
from tailrace.training.pytorch.progress import Progress
from tailrace.training.pytorch.ranks import Ranks
from tailrace.training.pytorch.recipe import Recipe
from tailrace.training.runs.tracked_run import Resumed, TrackedRun

ALONE = Ranks(0, 1, torch.device("cpu"))


def recipe(**others: Any) -> Recipe:
    model = classifier()
    made = Recipe(
        model=model,
        train_loader=loader(16),
        val_loader=None,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        device="cpu",
        num_epochs=4,
        logging_steps=1,
        scheduler=None,
        metrics=None,
        monitor="train_loss",
        accumulate=1,
        max_grad_norm=None,
        precision="32",
        compile=False,
        seed=None,
        callbacks=(),
        checkpoint_dir=None,
    )
    return dataclasses.replace(made, **others)


class Scripted(Loop):
    """Gives the losses that it is given, and marks the weights with the epoch."""

    losses: list[Any]

    def train(self, epoch: int, on_step: Any) -> dict[str, float]:
        loss = self.losses[epoch - 1]
        if isinstance(loss, BaseException):
            raise loss
        with torch.no_grad():
            for parameter in self._recipe.model.parameters():
                parameter.fill_(epoch)
        self.step += 2
        return {"train_loss": loss}


def course(
    tracker: ListTracker, folder: Path, losses: list[Any], resumed: Resumed | None = None, **others: Any
) -> Course:
    what = recipe(**others)
    loop = Scripted(what, ALONE)
    loop.losses = losses
    monitor = Monitor(what.monitor, patience=2)
    return Course(what, monitor, ALONE, loop, TrackedRun(tracker, "abc"), resumed, folder, Progress(4, wanted=False))


def weight(path: Path) -> float:
    return float(next(iter(checkpoints.load(path)["model"].values())).flatten()[0])


def test_the_best_and_the_last_epoch_are_kept_and_the_summary_says_which(tmp_path: Path) -> None:
    tracker = ListTracker()
    found = course(tracker, tmp_path, [3.0, 1.0, 2.0, 1.5]).through()
    assert found["best_train_loss"] == 1.0
    assert found["train_loss"] == 1.5
    assert (found["best_epoch"], found["total_epochs"], found["total_steps"]) == (2, 4, 8)
    assert found["early_stopped"] is True, "patience of two is over with the last epoch"
    assert (weight(tmp_path / checkpoints.BEST), weight(tmp_path / checkpoints.LAST)) == (2.0, 4.0)
    assert tracker.logged[-1][0] == 7
    assert tracker.logged[-1][1]["final/best_epoch"] == 2.0


def test_what_ends_it_leaves_the_epoch_before_as_an_artifact(tmp_path: Path) -> None:
    tracker = ListTracker()
    with pytest.raises(ValueError, match="in the data"):
        course(tracker, tmp_path, [3.0, ValueError("in the data")]).through()
    assert weight(tmp_path / checkpoints.LAST) == 1.0
    assert tracker.files[-2:] == ["checkpoints/best_checkpoint.pt", "checkpoints/last_checkpoint.pt"]
    assert not any("final/best_epoch" in values for _, values in tracker.logged)


def test_a_training_whose_run_is_asked_to_stop_ends_with_the_epoch(tmp_path: Path) -> None:
    tracker = ListTracker()
    asked = iter([False, True])
    tracker.should_stop = lambda: next(asked)  # type: ignore[attr-defined]
    found = course(tracker, tmp_path, [3.0, 2.0, ValueError("not come to"), 1.0]).through()
    assert (found["total_epochs"], found["early_stopped"], found["best_epoch"]) == (2, False, 2)
    assert weight(tmp_path / checkpoints.LAST) == 2.0
    assert tracker.logged[-1][1]["final/total_epochs"] == 2.0


def test_the_first_checkpoint_is_there_before_the_first_step_where_checkpoints_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at once"):
        course(ListTracker(), tmp_path, [ValueError("at once")], checkpoint_dir=tmp_path).through()
    state = checkpoints.load(tmp_path / checkpoints.LAST)
    assert (state["epoch"], state["step"], state["run"]) == (0, 0, "abc")


def test_it_goes_on_from_a_checkpoint_and_logs_no_params_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stopped"):
        course(ListTracker(), tmp_path, [3.0, 1.0, ValueError("stopped")]).through()
    tracker = ListTracker()
    second = course(tracker, tmp_path, [9.0, 9.0, 2.0, 0.5], Resumed("abc", 3, 2))
    last = tmp_path / checkpoints.LAST
    state = checkpoints.load(last)
    second._loop.load_state_dict(state)
    second.go_on(state, last)
    found = second.through()
    assert tracker.params == {}
    assert [value for _, value in tracker.of("epoch/train_loss")] == [2.0, 0.5]
    assert (found["best_epoch"], found["total_steps"]) == (4, 8)


def test_inside_of_best_weights_the_model_has_them_and_afterwards_its_own(tmp_path: Path) -> None:
    whole = course(ListTracker(), tmp_path, [3.0, 1.0, 2.0, 2.0])
    whole.through()
    first = next(iter(whole._recipe.model.parameters()))
    with whole.best_weights():
        assert float(first.flatten()[0]) == 2.0
    assert float(first.flatten()[0]) == 4.0
