"""A PyTorch model that a configuration describes: its rows as tensors, and `Trainer` over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tailrace.protocol import KnowsActiveRun
from tailrace.training.measures.input_data import Rows, checked_rows, rows_at, split_indices
from tailrace.training.runs.run_log import open_run
from tailrace_agent.errors import CallError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.protocol import TrackerLike
    from tailrace.training.measures.metric_names import Task
    from tailrace.training.pytorch.trainer import Trainer
    from tailrace.training.result import TrainingResult

__all__ = ["TorchOptions", "TorchTraining"]


class TorchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a PyTorch model is trained: the table `torch` of a training.

    Attributes:
        epochs: How often it goes over the rows.
        batch_size: Rows of each step.
        optimizer: The class in `torch.optim`.
        learning_rate: Of the optimizer.
        monitor: What decides which epoch is the best; see `Trainer`, also for the others.
        early_stopping_patience: Epochs without an improvement after which it stops.
        checkpoint_dir: Where checkpoints are kept.
        device: `auto`, or as torch names it.
    """

    epochs: int = 10
    batch_size: int = 32
    optimizer: str = "Adam"
    learning_rate: float = 1e-3
    monitor: str = "val_loss"
    early_stopping_patience: int | None = None
    checkpoint_dir: str | None = None
    device: str = "auto"


class TorchTraining:
    """A training that can begin.

    Args:
        module: To be trained; gives a score of each class, shape (rows, classes), or a number, shape (rows, 1).
        task: `classification`: the labels become indices, in their order. `regression`.
        data: Features and targets.
        validation: A share of the rows, others, or None.
        options: How it is trained.
        metrics: Names of `Trainer`'s.
        seed: Of the split, the order of the rows and the training.
        place: How to call the training in a message.

    Raises:
        SettingsError: Something of it can never work.
    """

    def __init__(
        self,
        module: Any,
        task: Task,
        data: tuple[Any, Any],
        validation: Any,
        *,
        options: TorchOptions,
        metrics: Any,
        seed: int | None,
        place: str,
    ) -> None:
        import torch

        self._module, self._task, self._options, self._place = module, task, options, place
        self._metrics, self._seed = [metrics] if isinstance(metrics, str) else metrics, seed
        if not isinstance(module, torch.nn.Module):
            raise SettingsError(f"{place}.model.model_type gives a {type(module).__name__}, and no torch.nn.Module")
        if not isinstance(getattr(torch.optim, options.optimizer, None), type):
            from tailrace.training.nearest_name import advice

            known = [name for name in dir(torch.optim) if name[0].isupper() and name != "Optimizer"]
            raise SettingsError(f"{place}.torch.optimizer is {options.optimizer!r}; {advice(options.optimizer, known)}")
        try:
            self._rows, self._held = self._split(data, validation)
        except CallError as error:
            raise SettingsError(f"{place}: {error}") from None
        self._classes = np.unique(np.asarray(self._rows.y)) if task == "classification" else None

    def run(
        self, tracker: TrackerLike, *, run_name: str | None, register: str | None, config: Mapping[str, Any]
    ) -> TrainingResult:
        """Trains, in the active run or one of its own.

        Raises:
            Exception: Whatever the module raises.
        """
        trainer = self._trainer(tracker, register)
        if not isinstance(tracker, KnowsActiveRun):  # the trainer could not join a run that is started here
            return trainer.train()
        with open_run(tracker, run_name or type(self._module).__name__) as run:
            run.log_config(config)
            if self._classes is not None:
                run.log_params({"classes": ", ".join(map(str, self._classes))})
            return trainer.train()

    def _split(self, data: tuple[Any, Any], validation: Any) -> tuple[Rows, Rows | None]:
        rows = checked_rows(*data)
        if validation is None:
            return rows, None
        if isinstance(validation, tuple):
            return rows, checked_rows(validation[0], validation[1], "validation: ")
        stratified = self._task == "classification"
        train, held = split_indices(rows, validation, stratified=stratified, seed=self._seed)
        return rows_at(rows, train), rows_at(rows, held)

    def _trainer(self, tracker: TrackerLike, register: str | None) -> Trainer:
        import torch

        from tailrace.training.pytorch.trainer import Trainer

        options = self._options
        optimizer = getattr(torch.optim, options.optimizer)(self._module.parameters(), lr=options.learning_rate)
        return Trainer(
            self._module,
            self._loader(self._rows, shuffle=True),
            None if self._held is None else self._loader(self._held, shuffle=False),
            optimizer,
            torch.nn.MSELoss() if self._classes is None else torch.nn.CrossEntropyLoss(),
            options.device,
            options.epochs,
            metrics=self._metrics,
            monitor=options.monitor,
            early_stopping_patience=options.early_stopping_patience,
            checkpoint_dir=options.checkpoint_dir,
            seed=self._seed,
            tracker=tracker,
            log_model=True,
            registered_model_name=register,
        )

    def _loader(self, rows: Rows, *, shuffle: bool) -> Any:
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        features = torch.as_tensor(np.asarray(rows.X, dtype=np.float32))
        if self._classes is None:
            targets = torch.as_tensor(np.asarray(rows.y, dtype=np.float32)[:, None])
        else:
            targets = torch.as_tensor(self._indices(np.asarray(rows.y)))
        order = torch.Generator().manual_seed(self._seed or 0)
        return DataLoader(TensorDataset(features, targets), self._options.batch_size, shuffle=shuffle, generator=order)

    def _indices(self, labels: Any) -> Any:
        assert self._classes is not None
        unknown = np.setdiff1d(labels, self._classes)
        if len(unknown):
            raise SettingsError(
                f"{self._place}: the validation has a class {unknown.tolist()[0]!r} that the training has not"
            )
        return np.searchsorted(self._classes, labels)
