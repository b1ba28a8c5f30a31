"""What can never work is found before anything is trained, and what can be read of a training is its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.training import ListTracker, classifier, loader
from tailrace import CallError
from tailrace.training import Trainer


def trainer(**arguments: Any) -> Trainer:
    model = arguments.pop("model", None) or classifier()
    arguments.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=0.1))
    arguments.setdefault("train_loader", loader())
    arguments.setdefault("val_loader", loader(seed=1))
    return Trainer(
        model,
        criterion=arguments.pop("criterion", nn.CrossEntropyLoss()),
        progress=False,
        tracker=arguments.pop("tracker", ListTracker()),
        **arguments,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"monitor": "val_f1"},
            "monitor is 'val_f1', which nobody computes; there are val_loss, val_accuracy, train_loss",
        ),
        ({"monitor": "val_accuracy", "val_loader": None}, "nobody computes without a val_loader"),
        ({"metrics": ["f1_macro"], "monitor": "val_accuracy"}, "there are val_loss, val_f1_macro"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"logging_steps": 2.5}, "logging_steps is 2.5"),
        ({"accumulate": True}, "accumulate is True"),
        ({"precision": "16"}, "precision is '16'"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)}, "holds no parameter of the model"),
        ({"train_loader": DataLoader(TensorDataset(torch.zeros(1, 4)), 2, drop_last=True)}, "train_loader is empty"),
        ({"resume_from": "auto"}, "checkpoint_dir"),
        ({"mode": "least"}, "mode is 'least'"),
        ({"model": classifier().requires_grad_(False)}, "all of it is frozen"),
        ({"criterion": nn.CrossEntropyLoss(reduction="none")}, "reduction='none'"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": 2**70}, "a whole number below"),
        ({"max_grad_norm": "1"}, "max_grad_norm is '1'"),
        ({"metrics": {"loss": lambda *_: 1.0}}, "metrics has 'loss', which is the criterion's"),
        ({"system_metrics_interval": 0}, "system_metrics_interval is 0"),
        ({"train_loader": iter([]), "num_epochs": 2}, "which one of 2 epochs uses up"),
        ({"val_loader": iter([]), "num_epochs": 2}, "val_loader is a list_iterator"),
    ],
)
def test_what_can_never_work_is_one_error_and_no_run(arguments: dict[str, Any], message: str) -> None:
    tracker = ListTracker()
    with pytest.raises(CallError, match=message):
        trainer(tracker=tracker, **arguments)
    assert tracker.runs == []


def test_the_configuration_says_what_is_trained_on_what_and_how() -> None:
    tracker = ListTracker()
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    trainer(model=model, optimizer=optimizer, tracker=tracker, scheduler=schedule, seed=5).train()
    config = tracker.params
    assert config["model"] == {"class": "Sequential", "parameters": 67, "trainable_parameters": 67}
    assert config["optimizer"]["class"] == "AdamW"
    assert config["optimizer"]["lr"] == 0.01
    assert config["optimizer"]["betas"] == [0.9, 0.999]
    assert config["criterion"]["class"] == "CrossEntropyLoss"
    assert config["scheduler"]["class"] == "StepLR"
    assert config["scheduler"]["gamma"] == 0.5
    assert config["data"] == {"batch_size": 8, "train_samples": 48, "train_batches": 6, "val_samples": 48}
    assert config["training"]["seed"] == 5
    assert "config.yaml" in tracker.files


def test_numbers_of_numpy_are_numbers() -> None:
    """A learning rate drawn by NumPy is a subclass of float, which YAML cannot write and `weights_only` not read."""
    tracker, model = ListTracker(), classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=np.float64(0.1), momentum=np.float32(0.5))
    trainer(model=model, optimizer=optimizer, seed=np.int64(3), max_grad_norm=np.float64(2.0), tracker=tracker).train()
    assert tracker.params["optimizer"]["lr"] == 0.1
    assert (tracker.params["training"]["seed"], tracker.params["training"]["max_grad_norm"]) == (3, 2.0)
    assert {type(value) for value in tracker.params["training"].values()} <= {str, int, float, bool}


def test_a_directory_that_takes_no_checkpoint_is_found_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CallError, match="checkpoint_dir: nothing can be written to"):
        trainer(checkpoint_dir=tmp_path / "file")
