"""Rows as a PyTorch model takes them, and what of a configuration cannot work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from helpers.least_tracker import LeastTracker
from tailrace import SettingsError
from tailrace.training.configured.torch_config import TorchOptions, TorchTraining

X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
WORDS = np.where(X[:, 0] > 0, "up", "down")


def training(module: Any, task: Any, y: Any, validation: Any = None, **options: Any) -> TorchTraining:
    chosen = TorchOptions(epochs=1, **options)
    return TorchTraining(
        module, task, (X, y), validation, options=chosen, metrics=None, seed=0, place="the config: training"
    )


def test_labels_become_indices_and_numbers_a_column() -> None:
    for module, task, y in ((nn.Linear(2, 2), "classification", WORDS), (nn.Linear(2, 1), "regression", X[:, 1])):
        noted = LeastTracker()
        result = training(module, task, y, 0.25, batch_size=8).run(noted, run_name=None, register=None, config={})
        assert result["best_val_loss"] > 0
        assert len([1 for metrics, _ in noted.logged if "train/loss_step" in metrics]) == 4


def test_what_cannot_work_is_named_before_anything_starts() -> None:
    with pytest.raises(SettingsError, match=r"model_type gives a str, and no torch.nn.Module"):
        training("net", "classification", WORDS)
    with pytest.raises(SettingsError, match=r"torch.optimizer is 'sdg'; "):
        training(nn.Linear(2, 2), "classification", WORDS, optimizer="sdg")
    with pytest.raises(SettingsError, match=r"training: X has 40 rows and y has 3"):
        training(nn.Linear(2, 2), "classification", WORDS[:3])
    other = training(nn.Linear(2, 2), "classification", WORDS, (X, np.full(40, "sideways")))
    with pytest.raises(SettingsError, match=r"has a class 'sideways' that the training has not"):
        other.run(LeastTracker(), run_name=None, register=None, config={})
