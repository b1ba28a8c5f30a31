"""What is no model, no optimizer and so on, or belongs to another one, is found before a run is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from helpers.training import ListTracker, classifier, loader
from tailrace import CallError
from tailrace.training import Callback, Trainer

Made = Callable[[nn.Module, torch.optim.Optimizer], dict[str, Any]]


def trainer(**arguments: Any) -> Trainer:
    model = arguments.pop("model", classifier())
    optimizer = torch.optim.SGD(model.parameters() if isinstance(model, nn.Module) else [torch.zeros(1)], lr=0.1)
    made = arguments.pop("made", None)
    parts: dict[str, Any] = {
        "train_loader": loader(),
        "val_loader": loader(seed=1),
        "optimizer": optimizer,
        "criterion": nn.CrossEntropyLoss(),
        "device": "cpu",
        "progress": False,
        "tracker": ListTracker(),
    }
    return Trainer(model, **{**parts, **arguments, **(made(model, optimizer) if made else {})})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet"}, "model is 'resnet'; it is a torch.nn.Module"),
        ({"model": nn.Linear}, "model is the class Linear"),
        ({"model": nn.Sequential(nn.LazyLinear(3))}, "lazy layers without a shape yet: pass one batch through it"),
        ({"optimizer": "adam"}, r"optimizer is 'adam'; it is one of torch.optim, as Adam\(model.parameters\(\)\)"),
        ({"optimizer": torch.optim.Adam}, "optimizer is the class Adam"),
        ({"criterion": nn.CrossEntropyLoss}, "criterion is the class CrossEntropyLoss"),
        ({"criterion": "cross_entropy"}, "criterion is 'cross_entropy'"),
        ({"scheduler": "cosine"}, "scheduler is 'cosine'"),
        ({"scheduler": lr_scheduler.StepLR}, "scheduler is the class StepLR"),
        ({"callbacks": Callback()}, "callbacks is a Callback; it is a list"),
        ({"callbacks": [Callback]}, "callbacks has the class Callback; pass an instance"),
        ({"callbacks": [print]}, r"which has no on_start\(\)"),
        ({"device": "gpu"}, "device is 'gpu'; it is 'auto', or as torch names it"),
        ({"device": "cuda:99"}, "device is 'cuda:99', and torch finds"),
        ({"tracker": 3}, r"tracker is int, which has no start_run\(\)"),
    ],
)
def test_what_is_no_such_part_is_named_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError, match=message):
        trainer(**arguments)


def test_an_optimizer_that_wants_the_loss_several_times_is_refused() -> None:
    with pytest.raises(CallError, match="LBFGS computes the loss several times a step"):
        trainer(made=lambda model, _: {"optimizer": torch.optim.LBFGS(model.parameters())})


def test_a_scheduler_of_another_optimizer_would_change_nothing() -> None:
    other = torch.optim.SGD(classifier().parameters(), lr=0.1)
    with pytest.raises(CallError, match="the scheduler StepLR is of another optimizer"):
        trainer(scheduler=lr_scheduler.StepLR(other, 1))


def test_a_plateau_looks_the_way_the_metric_does() -> None:
    """Made for a loss and given an accuracy, it would lower the learning rate as long as the model gets better."""

    def plateau(mode: Any) -> Made:
        return lambda _, optimizer: {"scheduler": lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode)}

    with pytest.raises(CallError, match="is given val_accuracy, of which more is better: it should have mode='max'"):
        trainer(made=plateau("min"), monitor="val_accuracy")
    assert trainer(made=plateau("max"), monitor="val_accuracy")
    assert trainer(made=plateau("min"))


def test_parts_of_every_kind_that_fit_are_taken() -> None:
    class Warmup:
        """A scheduler of the user's own."""

        def step(self) -> None: ...

        def state_dict(self) -> dict[str, Any]:
            return {}

    assert trainer(scheduler=Warmup(), criterion=lambda outputs, targets: outputs.mean(), device=torch.device("cpu"))
    assert trainer(
        made=lambda _, optimizer: {"scheduler": lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(optimizer)])}
    )
