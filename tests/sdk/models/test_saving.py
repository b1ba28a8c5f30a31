"""A frozen model in MLflow's format: saved without a trace in the training that goes on."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from pathlib import Path

import pytest
import torch

from helpers.models import X
from tailrace._models.copying import freeze_model
from tailrace._models.saving import flavor_module, save_model


def test_a_model_in_training_is_saved_with_its_statistics_and_takes_no_random_numbers(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    module.kept = module(torch.tensor(X, dtype=torch.float32, requires_grad=True))  # in the middle of a graph
    mean = module[0].running_mean.clone()
    frozen = freeze_model(module, None, torch.ones(2, 2))
    numbers = torch.get_rng_state()
    save_model(frozen, tmp_path / "model", signature="infer")
    assert torch.equal(torch.get_rng_state(), numbers)
    loaded = flavor_module("pytorch").load_model(str(tmp_path / "model"))
    assert torch.equal(loaded[0].running_mean, mean)
    assert module.training
    assert "signature" in (tmp_path / "model" / "MLmodel").read_text()


def test_importing_a_flavour_leaves_the_programs_logging_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    root, culprit = logging.getLogger(), "pytorch._lightning_autolog"
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.INFO)
    monkeypatch.delitem(sys.modules, f"mlflow.{culprit}", raising=False)
    with contextlib.suppress(ImportError):  # without Lightning, which it looks for when the harm is done
        importlib.import_module(f"mlflow.{culprit}")
    assert root.level == logging.ERROR
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.INFO)
    monkeypatch.delitem(sys.modules, f"mlflow.{culprit}", raising=False)
    with contextlib.suppress(ImportError):
        flavor_module(culprit)
    assert (root.level, root.handlers) == (logging.INFO, [])
