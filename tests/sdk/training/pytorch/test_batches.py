"""What comes out of a loader and a model, in the shape that a criterion takes."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tailrace import CallError
from tailrace.training.pytorch.batches import (
    as_outputs,
    as_targets,
    check_loss,
    first_sample,
    ignored_class,
    length,
    on_device,
    split,
    targets_are_classes,
)

Pair = namedtuple("Pair", "image label")
X, Y = torch.ones(4, 2), torch.tensor([0, 1, 1, 0])


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([X[0]])


def test_a_loader_has_a_length_or_does_not_know_it() -> None:
    assert length(DataLoader(TensorDataset(X, Y), 3), "train_loader") == 2
    assert length(DataLoader(Endless()), "train_loader") is None
    assert length(iter([(X, Y)]), "train_loader") is None


def test_an_empty_loader_and_what_is_none_are_errors_that_name_the_argument() -> None:
    with pytest.raises(CallError, match="val_loader is empty"):
        length(DataLoader(TensorDataset(X[:2], Y[:2]), 4, drop_last=True), "val_loader")
    with pytest.raises(CallError, match="train_loader is of type int"):
        length(3, "train_loader")


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], Pair(X, Y)])
def test_a_pair_is_inputs_and_targets(batch: Any) -> None:
    inputs, targets = split(batch)
    assert inputs is X
    assert targets is Y


def test_several_inputs_stand_before_the_targets() -> None:
    inputs, targets = split((X, X, Y))
    assert len(inputs) == 2
    assert targets is Y


def test_a_mapping_has_its_targets_under_a_known_name() -> None:
    inputs, targets = split({"pixels": X, "labels": Y})
    assert list(inputs) == ["pixels"]
    assert targets is Y
    with pytest.raises(CallError, match="a mapping of pixels, kind"):
        split({"pixels": X, "kind": Y})


@pytest.mark.parametrize("batch", [X, (X,), "ab", 3])
def test_what_has_no_targets_is_an_error(batch: Any) -> None:
    with pytest.raises(CallError, match="a batch is of type"):
        split(batch)


def test_nested_values_go_to_a_device_and_what_is_no_tensor_stays() -> None:
    moved = on_device({"a": (X, "word"), "b": [Y]}, torch.device("meta"))
    assert moved["a"][0].device.type == moved["b"][0].device.type == "meta"
    assert moved["a"][1] == "word"


def test_outputs_are_the_logits_of_a_mapping_or_a_struct() -> None:
    assert as_outputs(X) is X
    assert as_outputs({"logits": X, "hidden": Y}) is X
    assert as_outputs(SimpleNamespace(logits=X)) is X
    with pytest.raises(CallError, match=r"returns a dict of scores, hidden.*wrap the model"):
        as_outputs({"scores": X, "hidden": Y})
    with pytest.raises(CallError, match="a single number for the whole batch"):
        as_outputs(X.sum())


def test_targets_get_the_type_that_the_criterion_takes() -> None:
    scores = torch.zeros(4, 3)
    assert as_targets(Y.int(), scores, nn.CrossEntropyLoss()).dtype == torch.int64
    assert as_targets(Y, torch.zeros(4), nn.BCEWithLogitsLoss()).dtype == torch.float32
    soft = torch.softmax(scores, 1)
    assert as_targets(soft, scores, nn.CrossEntropyLoss()) is soft
    with pytest.raises(CallError, match=r"of type torch.float32, and CrossEntropyLoss takes classes: .* by .long\(\)"):
        as_targets(Y.float(), scores, nn.CrossEntropyLoss())


def test_classes_in_a_column_are_those_of_a_row_each_and_a_mask_of_one_channel_is_one() -> None:
    """Torch takes the first for several classes a sample, and says so in words of its own."""
    assert as_targets(Y[:, None], torch.zeros(4, 3), nn.CrossEntropyLoss()).shape == (4,)
    mask = torch.zeros(4, 1, 5, 5, dtype=torch.uint8)
    assert as_targets(mask, torch.zeros(4, 3, 5, 5), nn.CrossEntropyLoss()).shape == (4, 5, 5)
    assert as_targets(Y.reshape(2, 2), torch.zeros(2, 3, 2), nn.CrossEntropyLoss()).shape == (2, 2)


@pytest.mark.parametrize("loss", [3.0, {"loss": torch.tensor(1.0)}, torch.ones(4)])
def test_a_loss_is_one_number(loss: Any) -> None:
    with pytest.raises(CallError, match=r"the criterion returns a (float|dict|loss of shape \(4,\))"):
        check_loss(loss)
    check_loss(torch.tensor(1.0))


def test_targets_beside_a_column_are_not_broadcast_to_a_square() -> None:
    column = torch.zeros(4, 1)
    targets = as_targets(torch.ones(4), column, nn.MSELoss())
    assert targets.shape == (4, 1)
    assert as_targets(torch.ones(4, 2), column, nn.MSELoss()).shape == (4, 2)  # left to torch's own error


def test_a_criterion_of_ones_own_gets_the_targets_as_they_are() -> None:
    assert as_targets(Y.int(), X, lambda outputs, targets: outputs.sum()).dtype == torch.int32


@pytest.mark.parametrize(
    ("targets", "outputs", "classes"),
    [
        (Y, torch.zeros(4, 3), True),
        (torch.zeros(4, 5, 5, dtype=torch.long), torch.zeros(4, 3, 5, 5), True),
        (Y, torch.zeros(4, 1), False),
        (Y.float(), torch.zeros(4, 3), False),
        (Y.bool(), torch.zeros(4, 3), False),
        (Y, torch.zeros(4), False),
    ],
)
def test_targets_are_classes_where_there_is_a_score_for_each(targets: Any, outputs: Any, classes: bool) -> None:
    assert targets_are_classes(targets, outputs) is classes


def test_the_first_sample_of_a_batch_is_numpys_and_apart_from_it() -> None:
    x = torch.ones(4, 2, dtype=torch.bfloat16)
    sample = first_sample({"pixels": x})
    assert sample["pixels"].shape == (1, 2)
    assert sample["pixels"].dtype == np.float32
    counts = torch.ones(4, dtype=torch.int64)
    kept = first_sample(counts)
    counts.zero_()
    assert kept.tolist() == [1]
    assert first_sample((x, x)) is None
    assert first_sample({"text": ["a", "b"]}) is None


def test_a_named_tuple_stays_one_on_its_way_to_the_device() -> None:
    moved = on_device(Pair(torch.ones(1), torch.zeros(1)), torch.device("cpu"))
    assert (type(moved), moved.label.item()) == (Pair, 0.0)


@pytest.mark.parametrize(
    ("said", "ignored"),
    [
        (-100, -100),
        (0.0, 0),
        (torch.tensor(255), 255),
        (None, None),
        ([0, 1], None),
        (torch.tensor([0, 1]), None),
        (float("nan"), None),
        (object(), None),
    ],
)
def test_a_criterion_of_ones_own_may_have_anything_as_what_it_ignores(said: Any, ignored: int | None) -> None:
    assert ignored_class(SimpleNamespace(ignore_index=said)) == ignored
    assert ignored_class(lambda outputs, targets: 0) is None
