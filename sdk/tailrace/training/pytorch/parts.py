"""Whether the parts that a `Trainer` is given are what they are taken for, and belong together."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_parts"]

_HOOKS = ("on_start", "on_step", "on_epoch_end", "on_end")


def check_parts(model: Any, optimizer: Any, criterion: Any, scheduler: Any, callbacks: Any, device: Any) -> None:
    """Finds what is no model, no optimizer and so on, and what belongs to another one.

    Args:
        model: As `Trainer` takes it, and so are the others.
        optimizer: Of its parameters.
        criterion: Takes outputs and targets.
        scheduler: Of the optimizer, or None.
        callbacks: A list of them.
        device: As torch names it, or `auto`.

    Raises:
        CallError: Which argument, and what to do.
    """
    _check_model(model)
    _check_optimizer(optimizer, model)
    _check_criterion(criterion)
    if scheduler is not None:
        _check_scheduler(scheduler, optimizer)
    _check_callbacks(callbacks)
    _check_device(device)


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise CallError(f"model is {_described(model)}; it is a torch.nn.Module")
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise CallError(
            "the model has lazy layers without a shape yet: pass one batch through it, and then make the optimizer"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise CallError("no parameter of the model requires a gradient: all of it is frozen")


def _check_optimizer(optimizer: Any, model: nn.Module) -> None:
    if isinstance(optimizer, type) or not hasattr(optimizer, "param_groups"):
        raise CallError(f"optimizer is {_described(optimizer)}; it is one of torch.optim, as Adam(model.parameters())")
    closure = _parameters(optimizer.step).get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise CallError(
            f"{type(optimizer).__name__} computes the loss several times a step, which a Trainer does once; take "
            "another optimizer, or a loop of your own"
        )
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in trained for parameter in model.parameters()):
        raise CallError(
            "the optimizer holds no parameter of the model: make it from model.parameters(), after the model has "
            "been put together"
        )


def _check_criterion(criterion: Any) -> None:
    if isinstance(criterion, type) or not callable(criterion):
        raise CallError(
            f"criterion is {_described(criterion)}; it is a function of (outputs, targets), as nn.MSELoss()"
        )
    if getattr(criterion, "reduction", None) == "none":
        raise CallError("the criterion has reduction='none', and its loss is one of each sample; 'mean' is expected")


def _check_scheduler(scheduler: Any, optimizer: Any) -> None:
    if isinstance(scheduler, type) or not hasattr(scheduler, "step") or not hasattr(scheduler, "state_dict"):
        raise CallError(f"scheduler is {_described(scheduler)}; it is one of torch.optim.lr_scheduler, or None")
    groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", None)
    if groups is not None and groups is not optimizer.param_groups:
        raise CallError(
            f"the scheduler {type(scheduler).__name__} is of another optimizer, whose learning rates it would set: "
            "make it from the one that you pass"
        )


def _check_callbacks(callbacks: Any) -> None:
    if isinstance(callbacks, str) or not isinstance(callbacks, Sequence):
        raise CallError(f"callbacks is {_described(callbacks)}; it is a list of them")
    for each in callbacks:
        lacks = next((name for name in _HOOKS if not callable(getattr(each, name, None))), None)
        if isinstance(each, type) or lacks is not None:
            why = "; pass an instance" if isinstance(each, type) else f", which has no {lacks}(): see training.Callback"
            raise CallError(f"callbacks has {_described(each)}{why}")


def _check_device(wanted: Any) -> None:
    if wanted == "auto":
        return
    try:
        device = torch.device(wanted)
    except (RuntimeError, TypeError) as error:
        raise CallError(f"device is {wanted!r}; it is 'auto', or as torch names it: 'cpu', 'cuda', 'cuda:1'") from error
    count = torch.cuda.device_count() if device.type == "cuda" else None
    if count is not None and (device.index or 0) >= count:
        raise CallError(f"device is {wanted!r}, and torch finds {count or 'no'} GPU{'' if count == 1 else 's'} here")


def _described(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return repr(value) if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # of one in C
        return {}
