"""The loop itself: batches through a model, without a word of tracking.

Values stay on the device. On a CPU a loss is read at each step, which costs a microsecond; on a GPU what is summed up
is read once an epoch, so that no step waits for another.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tailrace.training.pytorch.batches import (
    as_outputs,
    as_targets,
    check_loss,
    first_sample,
    ignored_class,
    on_device,
    split,
)
from tailrace.training.pytorch.scores import Scores
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from tailrace.training.pytorch.ranks import Ranks
    from tailrace.training.pytorch.recipe import Recipe

__all__ = ["Loop", "Step"]

_AS_IT_IS = contextlib.nullcontext()
_HALF = (torch.bfloat16, torch.float16)
_ZERO_GRAD = torch.optim.Optimizer.zero_grad  # as it is before anybody patches it
_EACH_BATCH = ("OneCycleLR", "CyclicLR")
"""Schedulers of torch that are made for a step of each batch; all others step once an epoch."""


@dataclass(slots=True)
class Step:
    """One batch that was trained on.

    Attributes:
        number: Of the step, from 0 on, over all epochs.
        loss: Of this process's batch; a float on a CPU, else a tensor of shape ().
        accuracy: The same, where targets are classes.
        samples: In the batch.
        grad_norm: Before it was clipped, where it was; a float or a tensor of shape ().
        data_wait: Seconds that the loader took.
        duration: Seconds from one step's end to the next one's.
    """

    number: int
    loss: Any
    accuracy: Any
    samples: int
    grad_norm: Any
    data_wait: float
    duration: float


class Loop:
    """Trains and validates, epoch by epoch, in this process.

    Args:
        recipe: What, on what, and how.
        ranks: The processes that train together.

    Attributes:
        step: The number of the next step.
        example: The first sample that it has seen; None: none yet.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks) -> None:
        self._recipe, self._ranks = recipe, ranks
        self._device = ranks.device
        self._on_cpu = ranks.device.type == "cpu"
        recipe.model.to(ranks.device)
        if isinstance(recipe.criterion, torch.nn.Module):
            recipe.criterion.to(ranks.device)
        model: Any = torch.compile(recipe.model) if recipe.compile else recipe.model
        # Processes need not have equally many batches to validate on, so none waits for another there.
        self._alone, self._model = model, ranks.wrap(model)
        # A loss that is a sum over the batch is one of all its samples; a mean is one of each.
        self._summed = getattr(recipe.criterion, "reduction", "mean") == "sum"
        seed = recipe.seed or 0
        self._train_loader = ranks.share(recipe.train_loader, training=True, seed=seed)
        self._val_loader = None if recipe.val_loader is None else ranks.share(recipe.val_loader, training=False)
        half = {"32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
        self._autocast: Callable[[], Any] = (
            (lambda: _AS_IT_IS) if half is None else lambda: torch.autocast(ranks.device.type, dtype=half)
        )
        # Half precision loses small gradients; bfloat16 has the range of a float32.
        self.scaler = torch.amp.GradScaler(ranks.device.type) if recipe.precision == "fp16" else None
        self._each_batch = type(recipe.scheduler).__name__ in _EACH_BATCH
        self._train_scores, self._val_scores = (
            Scores(recipe.metrics, ranks.sum, ignored_class(recipe.criterion)) for _ in range(2)
        )
        self.step = 0
        self.example: Any = None

    # -- training ----------------------------------------------------------------------------------------------------

    def train(self, epoch: int, on_step: Callable[[Step], None]) -> dict[str, float]:
        """One epoch (from 1 on).

        Returns:
            `train_loss`, the mean over its samples, and `train_` with each metric, of all processes.

        Raises:
            FloatingPointError: The loss is NaN or infinite.
            CallError: The loader is empty, or its batches, or what the model returns, cannot be used.
        """
        recipe = self._recipe
        self._model.train()
        self._shuffle(epoch)
        optimizer, scaler, accumulate = recipe.optimizer, self.scaler, recipe.accumulate
        total: Any = 0.0
        samples = 0
        turn = True
        began = time.perf_counter()
        for index, (batch, data_wait, last) in enumerate(_with_waits(self._train_loader)):
            if turn:
                # Not behind the optimizer's step: what is freed there goes back to the system before the next gradients
                # need it, which then cost hundreds of page faults a step.
                _clear_gradients(optimizer)
            turn = last or (index + 1) % accumulate == 0
            # Gradients are averaged over the processes once, when they are used.
            with _AS_IT_IS if turn or self._ranks.size == 1 else self._model.no_sync():  # type: ignore[operator]
                loss, outputs, targets = self._forward(batch, self._model)
                divided = loss if accumulate == 1 else loss / accumulate
                _backward(divided if scaler is None else scaler.scale(divided))
            norm = self._advance() if turn else None
            n = outputs.shape[0]
            value = self._value(loss)
            if self._on_cpu and not math.isfinite(value):
                raise FloatingPointError(f"the loss is {value} at step {self.step} (epoch {epoch})")
            total, samples = total + (value if self._summed else value * n), samples + n
            # Neither outputs nor targets have a graph, so none is built here.
            right = self._train_scores.update(outputs, targets)
            now = time.perf_counter()
            on_step(Step(self.step, value, right, n, norm, data_wait, now - began))
            self.step += 1
            began = now
        if not samples:
            raise CallError("train_loader gave no batch: there is nothing to train on")
        if not turn and self._ranks.size == 1:
            self._advance()  # the loader has given fewer batches than its length
        _clear_gradients(optimizer)  # validation and the checkpoint have their memory
        found = {"train_loss": self._mean(total, samples), **_named("train", self._train_scores.compute())}
        if not math.isfinite(found["train_loss"]):
            raise FloatingPointError(
                f"the loss of epoch {epoch} is {found['train_loss']} (steps up to {self.step - 1})"
            )
        return found

    def validate(self) -> dict[str, float]:
        """One pass over the validation data.

        Returns:
            `val_loss`, and `val_` with each metric, of all processes; nothing without validation data.

        Raises:
            CallError: The loader is empty.
        """
        if self._val_loader is None:
            return {}
        self._recipe.model.eval()
        self._ranks.same_buffers(self._recipe.model)
        total: Any = 0.0
        samples = 0
        with torch.no_grad():
            for batch in self._val_loader:
                loss, outputs, targets = self._forward(batch, self._alone)
                n = len(outputs)
                total, samples = total + loss.detach() * (1 if self._summed else n), samples + n
                self._val_scores.update(outputs, targets)
        if not samples:
            raise CallError("val_loader gave no batch: pass None to train without validation")
        return {"val_loss": self._mean(total, samples), **_named("val", self._val_scores.compute())}

    def end_epoch(self, monitored: float) -> None:
        """Lets a scheduler that steps once an epoch do so."""
        scheduler = self._recipe.scheduler
        if scheduler is None or self._each_batch:
            return
        if type(scheduler).__name__ == "ReduceLROnPlateau":
            scheduler.step(monitored)
        else:
            scheduler.step()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of model, optimizer, scheduler, scaler and the loader's own random numbers."""
        recipe = self._recipe
        state: dict[str, Any] = {
            "model": recipe.model.state_dict(),
            "optimizer": recipe.optimizer.state_dict(),
            "step": self.step,
            "classes": {"optimizer": type(recipe.optimizer).__name__, "scheduler": type(recipe.scheduler).__name__},
        }
        if recipe.scheduler is not None:
            state["scheduler"] = recipe.scheduler.state_dict()
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        generator = getattr(self._train_loader, "generator", None)
        if generator is not None:
            state["generator"] = generator.get_state()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint.

        Raises:
            CallError: It is of another model, optimizer or scheduler.
        """
        recipe = self._recipe
        parts = {"model": recipe.model, "optimizer": recipe.optimizer, "scheduler": recipe.scheduler}
        for name, part in {**parts, "scaler": self.scaler}.items():
            if part is None or name not in state:
                continue
            was, now = state.get("classes", {}).get(name), type(part).__name__
            try:
                if name != "model" and was not in (None, now):
                    raise ValueError(f"that was a {was}, and this is a {now}")
                part.load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                why = str(error).rstrip(" .")
                raise CallError(
                    f"the checkpoint does not fit the {name}: {why}. Train on with the {name} that it is of, or leave "
                    "out resume_from and begin anew"
                ) from error
        generator = getattr(self._train_loader, "generator", None)
        if generator is not None and "generator" in state:
            generator.set_state(state["generator"])
        self.step = state["step"]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _forward(self, batch: Any, model: Any) -> tuple[Tensor, Tensor, Any]:
        """Loss, outputs and targets of a batch; outputs apart from the graph."""
        recipe = self._recipe
        inputs, targets = split(batch)
        if self.example is None:
            self.example = first_sample(inputs)
        if not self._on_cpu:
            inputs, targets = on_device(inputs, self._device), on_device(targets, self._device)
        with self._autocast():
            if isinstance(inputs, dict):
                outputs = model(**inputs)
            else:
                outputs = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
            outputs = as_outputs(outputs)
            if outputs.dtype in _HALF and recipe.precision != "32":
                outputs = outputs.float()  # targets would be rounded to what the model computes in, and sums as well
            targets = as_targets(targets, outputs, recipe.criterion)
            loss = recipe.criterion(outputs, targets)
        check_loss(loss)
        return loss, outputs.detach(), targets

    def _advance(self) -> Any:
        """Takes a step of the optimizer; the norm of the gradient, where it is clipped."""
        recipe, scaler, norm = self._recipe, self.scaler, None
        if recipe.max_grad_norm is not None:
            if scaler is not None:
                scaler.unscale_(recipe.optimizer)
            norm = self._value(torch.nn.utils.clip_grad_norm_(self._trained(), recipe.max_grad_norm))
        if scaler is None:
            recipe.optimizer.step()
        else:
            scaler.step(recipe.optimizer)
            scaler.update()
        if self._each_batch:
            recipe.scheduler.step()
        return norm

    def _trained(self) -> list[Tensor]:
        """The parameters of the optimizer, which may be given more while it trains."""
        return [parameter for group in self._recipe.optimizer.param_groups for parameter in group["params"]]

    def _value(self, tensor: Tensor) -> Any:
        return tensor.item() if self._on_cpu else tensor.detach()

    def _shuffle(self, epoch: int) -> None:
        sampler: Any = getattr(self._train_loader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)

    def _mean(self, total: Any, samples: int) -> float:
        sums = torch.tensor([float(total), float(samples)], dtype=torch.float64)
        sums = self._ranks.sum(sums)
        return float(sums[0] / sums[1])


def _clear_gradients(optimizer: Any) -> None:
    """What `zero_grad` does; torch's own takes 60 us of a step, for a word to its profiler and to its compiler."""
    clear = optimizer.zero_grad
    if getattr(clear, "__func__", None) is not _ZERO_GRAD or clear.__self__ is not optimizer:
        clear()  # somebody's own does more, or has no argument
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _backward(loss: Any) -> None:
    loss.backward()


def _named(phase: str, scores: Mapping[str, float]) -> dict[str, float]:
    return {f"{phase}_{name}": value for name, value in scores.items()}


def _with_waits(loader: Any) -> Iterator[tuple[Any, float, bool]]:
    """Each batch, the seconds that the loader took for it, and whether it is the last.

    The next batch is fetched before the last one is known to be the last, so it is asked for by its number where the
    loader has a length, and one ahead where it has none.
    """
    clock = time.perf_counter
    iterator = iter(loader)
    count = _length(loader)
    if count is None:
        began = clock()
        ahead = next(iterator, None)
        waited = clock() - began
        while ahead is not None:
            began = clock()
            following = next(iterator, None)
            took = clock() - began
            yield ahead, waited, following is None
            ahead, waited = following, took
        return
    for number in itertools.count(1):
        began = clock()
        try:
            batch = next(iterator)
        except StopIteration:
            return
        yield batch, clock() - began, number == count


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
