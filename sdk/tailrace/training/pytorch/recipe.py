"""What a `Trainer` is given: checked once, and what can be read of it as the run's configuration."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat

from tailrace.training.pytorch.batches import length
from tailrace.training.pytorch.parts import check_parts
from tailrace.training.pytorch.scores import ACCURACY, score_names
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from tailrace.training.pytorch.callbacks import Callback

__all__ = ["Precision", "Recipe"]

Precision = Literal["32", "bf16", "fp16"]

_SEEDS = 2**63
"""torch takes no larger ones."""
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, and how; the arguments of `Trainer`."""

    model: nn.Module
    train_loader: Any
    val_loader: Any
    optimizer: Optimizer
    criterion: Callable[[Any, Any], Tensor]
    device: str
    num_epochs: int
    logging_steps: int
    scheduler: Any
    metrics: Mapping[str, Any] | Sequence[str] | None
    monitor: str
    accumulate: int
    max_grad_norm: float | None
    precision: Precision
    compile: bool
    seed: int | None
    callbacks: Sequence[Callback]
    checkpoint_dir: Path | None

    def check(self) -> None:
        """Finds what can never work before anything is trained.

        Raises:
            CallError: Which argument, and what to do.
        """
        check_parts(self.model, self.optimizer, self.criterion, self.scheduler, self.callbacks, self.device)
        length(self.train_loader, "train_loader")
        if self.val_loader is not None:
            length(self.val_loader, "val_loader")
        for name in ("num_epochs", "logging_steps", "accumulate"):
            value = getattr(self, name)
            if not hasattr(value, "__index__") or isinstance(value, bool) or value < 1:
                raise CallError(f"{name} is {value!r}; it is a whole number from 1 on")
        if self.precision not in ("32", "bf16", "fp16"):
            raise CallError(f"precision is {self.precision!r}; it is '32', 'bf16' or 'fp16'")
        norm: Any = self.max_grad_norm
        if norm is not None and not (isinstance(norm, SupportsFloat) and float(norm) > 0):
            raise CallError(f"max_grad_norm is {norm!r}; it is a norm above 0, or None")
        if self.seed is not None and not (hasattr(self.seed, "__index__") and abs(self.seed) < _SEEDS):
            raise CallError(f"seed is {self.seed!r}; it is a whole number below 2**63, or None")
        self._check_loaders()
        self._check_monitor()
        self._check_folder()

    def _check_folder(self) -> None:
        if self.checkpoint_dir is None:
            return
        try:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.checkpoint_dir):
                pass
        except OSError as error:
            raise CallError(f"checkpoint_dir: nothing can be written to {self.checkpoint_dir}: {error}") from error

    def _check_loaders(self) -> None:
        for name, loader in (("train_loader", self.train_loader), ("val_loader", self.val_loader)):
            if self.num_epochs > 1 and isinstance(loader, Iterator):
                raise CallError(
                    f"{name} is a {type(loader).__name__}, which one of {self.num_epochs} epochs uses up; pass "
                    "what can be gone through again, as a DataLoader or a list of batches"
                )

    def _check_monitor(self) -> None:
        """That somebody computes the metric; an accuracy may turn out to be computed when the targets are seen."""
        names = score_names(self.metrics)
        scores = ["loss", *([ACCURACY] if names is None else names)]
        phases = ["train"] if self.val_loader is None else ["val", "train"]
        known = [f"{phase}_{name}" for phase in phases for name in scores]
        # One of torchmetrics' may give several values, `val_f1_0` and so on, which are known when it has been computed.
        several = isinstance(self.metrics, Mapping) and self.monitor.startswith(tuple(f"{name}_" for name in known))
        if self.monitor not in known and not several:
            without = " without a val_loader" if self.val_loader is None and self.monitor.startswith("val_") else ""
            raise CallError(
                f"monitor is {self.monitor!r}, which nobody computes{without}; there are {', '.join(known)}"
                + ("" if without else " (more by metrics=)")
            )

    def config(self) -> dict[str, Any]:
        """What can be read of it, for params and `config.yaml`."""
        parameters = list(self.model.parameters())
        data = {
            "batch_size": getattr(self.train_loader, "batch_size", None),
            "train_samples": _samples(self.train_loader),
            "train_batches": length(self.train_loader, "train_loader"),
            "val_samples": None if self.val_loader is None else _samples(self.val_loader),
        }
        training = {
            "num_epochs": self.num_epochs,
            "monitor": self.monitor,
            "precision": self.precision,
            "accumulate": self.accumulate,
            "max_grad_norm": self.max_grad_norm,
            "compile": self.compile,
            "seed": self.seed,
        }
        config: dict[str, Any] = {
            "model": {
                "class": _name(self.model),
                "parameters": sum(parameter.numel() for parameter in parameters),
                "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            },
            "optimizer": {"class": _name(self.optimizer), **_plain(self.optimizer.defaults)},
            "criterion": {
                "class": _name(self.criterion),
                **_plain(vars(self.criterion) if _has_vars(self.criterion) else {}),
            },
            "data": {key: value for key, value in data.items() if value is not None},
            "training": _plain(training),
        }
        if self.scheduler is not None:
            config["scheduler"] = {"class": _name(self.scheduler), **_plain(vars(self.scheduler), but="last_epoch")}
        return config


def _name(value: object) -> str:
    return getattr(value, "__name__", None) or type(value).__name__


def _has_vars(value: object) -> bool:
    return hasattr(value, "__dict__") and not isinstance(value, type) and not hasattr(value, "__code__")


def _plain(values: Mapping[str, Any], but: str = "") -> dict[str, Any]:
    """What has been set, and is nothing but a number, a word, or a few of them; not the inner state."""
    found = {
        key: _native(value)
        for key, value in values.items()
        if not key.startswith("_") and key not in (but, "training") and value is not None
    }
    return {key: value for key, value in found.items() if isinstance(value, _PLAIN) or _few(value)}


def _native(value: Any) -> Any:
    """A number or a word in Python's own type; NumPy's are subclasses of these, which YAML cannot write."""
    if isinstance(value, (list, tuple)):
        return [_native(each) for each in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _few(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 8 and all(isinstance(each, _PLAIN) for each in value)


def _samples(loader: Any) -> int | None:
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        return None
