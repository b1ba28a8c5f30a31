"""What comes out of a loader, as what goes into a model and its criterion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tailrace_agent.errors import CallError

__all__ = [
    "as_outputs",
    "as_targets",
    "check_loss",
    "first_sample",
    "ignored_class",
    "length",
    "on_device",
    "split",
    "targets_are_classes",
]

_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_OF_NUMBERS = (nn.BCEWithLogitsLoss, nn.BCELoss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
_LABELS = ("labels", "label", "target", "targets", "y")


def length(loader: Any, name: str) -> int | None:
    """How many batches a loader has; None where it does not know, as one of an `IterableDataset`.

    Raises:
        CallError: It has none, or is no loader at all.
    """
    if not hasattr(loader, "__iter__"):
        raise CallError(
            f"{name} is of type {type(loader).__name__}; it is a DataLoader, or anything that yields batches"
        )
    try:
        found = len(loader)
    except TypeError:
        return None
    if found == 0:
        raise CallError(f"{name} is empty: its data set has no samples, or fewer than a batch under drop_last=True")
    return found


def split(batch: Any) -> tuple[Any, Any]:
    """A batch as inputs and targets: a pair, several inputs before the targets, or a mapping with labels.

    Raises:
        CallError: It is none of these.
    """
    if isinstance(batch, Mapping):
        label = next((key for key in _LABELS if key in batch), None)
        if label is None:
            raise CallError(
                f"a batch is a mapping of {', '.join(map(str, batch))}; the targets are expected under one of "
                f"{', '.join(_LABELS)}"
            )
        return {key: value for key, value in batch.items() if key != label}, batch[label]
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) >= 2:
        inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
        return inputs, batch[-1]
    raise CallError(
        f"a batch is of type {type(batch).__name__}; it is (inputs, targets), (input, input, …, targets), or a mapping "
        f"with the targets under one of {', '.join(_LABELS)}"
    )


def on_device(values: Any, where: torch.device) -> Any:
    """The same with all tensors on a device; copies from pinned memory are not waited for."""
    if hasattr(values, "to"):
        return values.to(where, non_blocking=True)
    if isinstance(values, Mapping):
        return {key: on_device(value, where) for key, value in values.items()}
    if isinstance(values, (tuple, list)):
        moved = [on_device(value, where) for value in values]
        return type(values)(*moved) if hasattr(values, "_fields") else type(values)(moved)
    return values


def first_sample(inputs: Any) -> Any:
    """The first sample of a batch's inputs, as NumPy's arrays; None where it is neither a tensor nor a mapping."""
    if isinstance(inputs, Mapping):
        found = {key: first_sample(value) for key, value in inputs.items()}
        return None if any(value is None for value in found.values()) else found
    if not isinstance(inputs, torch.Tensor):
        return None
    sample = inputs[:1].detach().cpu()
    return (sample.float() if sample.dtype == torch.bfloat16 else sample).numpy().copy()


def as_outputs(outputs: Any) -> Tensor:
    """A model's outputs as the tensor that a criterion takes: the logits, where it returns a mapping or a struct.

    Raises:
        CallError: There is no such tensor in it.
    """
    if isinstance(outputs, torch.Tensor):
        if outputs.ndim:
            return outputs
        raise CallError("the model returns a single number for the whole batch; its outputs have the samples first")
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    held = f" of {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
    raise CallError(
        f"the model returns a {type(outputs).__name__}{held}, and its outputs are expected as a tensor, or under "
        "'logits'; wrap the model in a module whose forward returns what the criterion takes"
    )


def as_targets(targets: Any, outputs: Tensor, criterion: Any) -> Any:
    """Targets in the type and shape that the criterion takes, where these alone differ.

    `CrossEntropyLoss` takes classes as int64, of shape (N, …) beside outputs of shape (N, C, …): those of shape
    (N, 1, …), as masks of pixels often are, are brought to it. What compares numbers takes them in the outputs' type
    and shape: targets of shape (N,) beside outputs of shape (N, 1) would be broadcast to (N, N), and the loss mean
    nothing.

    Raises:
        CallError: Numbers that are no classes' probabilities, where classes are expected.
    """
    if not isinstance(targets, torch.Tensor):
        return targets
    whole = not targets.is_floating_point() and not targets.is_complex()
    if isinstance(criterion, _OF_CLASSES):
        if not whole:
            if targets.ndim == outputs.ndim - 1:
                raise CallError(
                    f"the targets are of type {targets.dtype}, and {type(criterion).__name__} takes classes: pass "
                    "whole numbers, as by .long()"
                )
            return targets
        if targets.ndim == outputs.ndim > 1 and targets.shape[1] == 1 < outputs.shape[1]:
            targets = targets.squeeze(1)
        return targets if targets.dtype == torch.int64 else targets.long()
    if isinstance(criterion, _OF_NUMBERS):
        if targets.shape != outputs.shape and targets.numel() == outputs.numel():
            targets = targets.reshape(outputs.shape)
        return targets if targets.dtype == outputs.dtype else targets.to(outputs.dtype)
    return targets


def ignored_class(criterion: Any) -> int | None:
    """The class of targets that a criterion leaves out: its `ignore_index`, where that is one whole number.

    Criteria of one's own may have anything of this name, several classes too; the accuracy then counts all.
    """
    try:
        number = float(getattr(criterion, "ignore_index", None))  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # no number, or several
        return None
    return int(number) if number.is_integer() else None


def check_loss(loss: Any) -> None:
    """That a criterion has given what can be trained by: one number.

    Raises:
        CallError: It is none.
    """
    if not isinstance(loss, torch.Tensor):
        raise CallError(f"the criterion returns a {type(loss).__name__}; a tensor of shape () is expected")
    if loss.ndim and loss.numel() != 1:
        raise CallError(f"the criterion returns a loss of shape {tuple(loss.shape)}; its mean is expected, of shape ()")


def targets_are_classes(targets: Any, outputs: Tensor) -> bool:
    """Whether targets are the indices of classes that outputs have a score for each: (N, …) beside (N, C, …)."""
    return (
        isinstance(targets, torch.Tensor)
        and not targets.is_floating_point()
        and targets.dtype != torch.bool
        and outputs.ndim == targets.ndim + 1
        and outputs.shape[1] > 1
        and outputs.shape[0] == targets.shape[0]
    )
