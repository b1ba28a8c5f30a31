"""What is logged of a step, an epoch and the end, under which names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import device
    from torch.optim import Optimizer

    from tailrace.training.pytorch.logged_steps import LoggedSteps
    from tailrace.training.pytorch.loop import Step

__all__ = ["EPOCH_KEY", "STEP_KEY", "TOTAL_KEY", "StepLog"]

STEP_KEY = "train/loss_step"
EPOCH_KEY = "epoch/train_loss"
TOTAL_KEY = "final/total_steps"
_GB = 1e9
_GPU_EVERY = 1.0


class StepLog:
    """Logs a training's steps and epochs, in one call each.

    Args:
        target: Its `log` takes them.
        optimizer: Whose learning rates are logged, of each group of parameters.
        every: Each how-manieth step.
        where: The device; of a GPU memory and utilisation are logged, once a second.
        has_step: The last step that the run has already; it and those before are not logged again.
        has_epoch: The same for epochs.
        mark: Notes what has been logged.
    """

    def __init__(
        self,
        target: Any,
        optimizer: Optimizer,
        every: int,
        where: device,
        has_step: int,
        has_epoch: int,
        mark: LoggedSteps | None = None,
    ) -> None:
        self._log, self._optimizer, self._every = target.log, optimizer, every
        self._has_step, self._has_epoch, self._mark = has_step, has_epoch, mark
        self._rates = ["train/learning_rate"]
        self._gpu = _Gpu(where) if where.type == "cuda" else None

    def step(self, step: Step) -> None:
        """One step."""
        if step.number <= self._has_step or step.number % self._every:
            return
        values = {
            STEP_KEY: step.loss,
            "train/batch_time_seconds": step.duration,
            "train/data_wait_seconds": step.data_wait,
            "train/samples_per_second": step.samples / step.duration,
        }
        # The list is another one after a checkpoint has been loaded, and longer once more layers are trained.
        groups = self._optimizer.param_groups
        while len(self._rates) < len(groups):
            self._rates.append(f"train/learning_rate_{len(self._rates)}")
        for name, group in zip(self._rates, groups, strict=False):
            values[name] = group["lr"]
        if step.accuracy is not None:
            values["train/accuracy_step"] = step.accuracy
        if step.grad_norm is not None:
            values["train/grad_norm"] = step.grad_norm
        if self._gpu is not None:
            values.update(self._gpu.figures())
        self._log(values, step=step.number)
        if self._mark is not None:
            self._mark.step(step.number)

    def epoch(self, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        """One epoch, from 1 on."""
        if epoch > self._has_epoch:
            named = {f"epoch/{name}": value for name, value in metrics.items()}
            self._log({**named, "epoch/duration_seconds": seconds}, step=epoch)
            if self._mark is not None:
                self._mark.epoch(epoch)

    def end(self, final: Mapping[str, Any], step: int) -> None:
        """The summary, at the last step."""
        self._log({f"final/{name}": float(value) for name, value in final.items()}, step=step)


class _Gpu:
    """A GPU's figures, at most once a second: asking for them takes a tenth of a millisecond."""

    def __init__(self, where: device) -> None:
        self._device, self._next, self._has_nvml = where, 0.0, True

    def figures(self) -> dict[str, float]:
        now = time.monotonic()
        if now < self._next:
            return {}
        self._next = now + _GPU_EVERY
        import torch

        found = {
            "system/gpu_memory_allocated_gb": torch.cuda.memory_allocated(self._device) / _GB,
            "system/gpu_memory_reserved_gb": torch.cuda.memory_reserved(self._device) / _GB,
        }
        if self._has_nvml:
            try:
                found["system/gpu_utilization_percent"] = float(torch.cuda.utilization(self._device))
            except Exception:  # noqa: BLE001 - NVML is not there, not allowed, or of another version: not asked again
                self._has_nvml = False
        return found
