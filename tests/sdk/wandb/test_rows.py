"""What becomes of a row, whatever is in it."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.wandb_tools import stored
from tailrace import wandb

ODD = {
    "nan array": np.array([1.0, float("nan")]),
    "texts": np.array(["a", "b"]),
    "objects": np.array([object(), object()]),
    "flags": np.array([True, False, True]),
    "list of objects": [object()],
    "bytes": b"abc",
    "complex": 1j,
    "date": np.datetime64("2026-01-01"),
    "deep": {"a": {"b": object()}},
    "ragged": wandb.Table(columns=["a", "b"], data=[[1], [1, 2, 3]]),
    "cells": wandb.Table(columns=["a"], data=[[np.arange(3)], [{"x": 1}], [None], [object()]]),
    "twice": wandb.Table(columns=["a", "a"], data=[[1, 2]]),
    "image of nothing": wandb.Image(np.zeros((0, 0))),
    "image of five": wandb.Image(np.zeros((2, 2, 2, 2, 2))),
    "ümlaut(ä)": wandb.Image(np.zeros((2, 2))),
}


def test_an_odd_value_takes_no_number_of_its_row_along(store: str, warned: list[str]) -> None:
    run = wandb.init(project="odd")
    for step, (name, value) in enumerate(ODD.items()):
        wandb.log({"before": step, name: value, "after": float(step)})
    found = stored(store, run)
    everything = [(step, float(step)) for step in range(len(ODD))]
    assert (found.history("before"), found.history("after")) == (everything, everything)
    artifacts = found.artifacts()
    for file in ("media/tables/ragged_9.json", "media/tables/cells_10.json", "media/histograms/flags_3.json"):
        assert file in artifacts, artifacts
    assert any("_mlaut" in name for name in artifacts)


def test_a_value_that_changes_before_its_row_is_complete_is_logged_as_it_was(store: str) -> None:
    torch = pytest.importorskip("torch")
    run = wandb.init(project="changing")
    total, array, picture = torch.ones(()), np.ones(1), np.zeros((2, 2), np.uint8)
    image = wandb.Image(picture)
    wandb.log({"total": total, "array": array, "image": image}, commit=False)
    total.zero_()
    array[0] = 0
    picture[:] = 255
    wandb.log({"loss": 1.0})
    found = stored(store, run)
    assert (found.history("total"), found.history("array"), found.history("loss")) == (
        [(0, 1.0)],
        [(0, 1.0)],
        [(0, 1.0)],
    )
    (file,) = (name for name in found.artifacts() if name.endswith(".png"))
    pillow = pytest.importorskip("PIL.Image")
    path = found.client.download_artifacts(found.run_id, file)
    assert np.asarray(pillow.open(path)).max() == 0
