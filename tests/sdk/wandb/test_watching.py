"""Gradients that are watched."""

from __future__ import annotations

import pytest

from helpers.wandb_tools import stored
from tailrace import wandb


def test_gradients_are_watched_without_waiting_for_a_device(store: str) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(2, 1)
    run = wandb.init(project="watched")
    wandb.watch(model, log="all", log_freq=2)
    for _ in range(4):
        model(torch.ones(3, 2)).sum().backward()
        wandb.log({"loss": 1.0})
    wandb.unwatch(model)
    found = stored(store, run)
    assert [step for step, _ in found.history("gradients/weight.norm")] == [0, 2]
    assert [step for step, _ in found.history("parameters/bias.norm")] == [0, 2]
