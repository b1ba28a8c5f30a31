"""What others do while a `Trainer` trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.training.result import TrainingResult

__all__ = ["Callback"]


class Callback:
    """Override what you need; an exception goes through and ends the training.

    With several processes each of them calls its own.

    Example:
        >>> class Prune(Callback):
        ...     def on_epoch_end(self, epoch, metrics):
        ...         trial.report(metrics["val_loss"], epoch)
        ...         if trial.should_prune():
        ...             raise optuna.TrialPruned
    """

    def on_start(self, config: Mapping[str, Any]) -> None:
        """Before the first step; with what the run's `config.yaml` holds."""

    def on_step(self, step: int) -> None:
        """After a step (from 0 on)."""

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """After an epoch (from 1 on), with its `train_loss`, `val_loss` and other metrics."""

    def on_end(self, result: TrainingResult) -> None:
        """After the last epoch; not when training was stopped by an exception."""
