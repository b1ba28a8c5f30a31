"""The metrics of an epoch: torchmetrics', functions, and the accuracy where targets are classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tailrace.training.pytorch.batches import targets_are_classes
from tailrace_agent.errors import CallError

__all__ = ["ACCURACY", "NAMED", "Scores", "mode_of", "score_names"]

ACCURACY = "accuracy"
Wanted = Mapping[str, Any] | Sequence[str] | None

NAMED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "accuracy": ("classification.{}Accuracy", {"average": "micro"}),
    "balanced_accuracy": ("classification.{}Accuracy", {"average": "macro"}),
    "f1_macro": ("classification.{}F1Score", {"average": "macro"}),
    "f1_micro": ("classification.{}F1Score", {"average": "micro"}),
    "f1_weighted": ("classification.{}F1Score", {"average": "weighted"}),
    "precision_macro": ("classification.{}Precision", {"average": "macro"}),
    "recall_macro": ("classification.{}Recall", {"average": "macro"}),
    "auroc": ("classification.{}AUROC", {}),
    "mae": ("MeanAbsoluteError", {}),
    "mse": ("MeanSquaredError", {}),
    "rmse": ("MeanSquaredError", {"squared": False}),
    "r2": ("R2Score", {}),
}
"""By name: torchmetrics' class, and its arguments. `{}` stands for the task: Binary or Multiclass."""


def score_names(wanted: Wanted) -> list[str] | None:
    """The names of the metrics that are asked for; None: an accuracy, if the targets turn out to be classes.

    Raises:
        CallError: One is no metric.
    """
    if wanted is None:
        return None
    if isinstance(wanted, str) or not isinstance(wanted, (Mapping, Sequence)):
        raise CallError(f"metrics is {wanted!r}; it is a list of names, or a mapping of names to metrics or functions")
    if "loss" in wanted:
        raise CallError("metrics has 'loss', which is the criterion's: call it another name")
    if isinstance(wanted, Mapping):
        for name, metric in wanted.items():
            if isinstance(metric, type):
                raise CallError(
                    f"metrics[{name!r}] is the class {metric.__name__}; pass an instance, {metric.__name__}(…)"
                )
            if not callable(metric):
                raise CallError(f"metrics[{name!r}] is no metric of torchmetrics and no function of (outputs, targets)")
        return list(wanted)
    for name in wanted:
        if name not in NAMED:
            from difflib import get_close_matches

            near = get_close_matches(str(name), NAMED, n=1)
            raise CallError(
                f"metrics has {name!r}, which is none of {', '.join(NAMED)}"
                + (f"; did you mean {near[0]!r}?" if near else "; pass others as a mapping of names to metrics")
            )
    return list(wanted)


def mode_of(wanted: Wanted, monitor: str) -> str:
    """What a monitored metric says of itself: `max` or `min`, or `auto` where it says nothing, as functions do.

    Args:
        wanted: As `Trainer` takes them, checked.
        monitor: `val_` or `train_`, the metric's name, and of several values the value's.
    """
    if not isinstance(wanted, Mapping):
        return "auto"
    value = monitor.partition("_")[2]
    names = sorted((name for name in wanted if value == name or value.startswith(f"{name}_")), key=len)
    if not names:
        return "auto"
    metric: Any = wanted[names[-1]]
    part = value[len(names[-1]) + 1 :]
    if part and hasattr(metric, "keys") and part in metric:  # a MetricCollection
        metric = metric[part]
    larger = getattr(metric, "higher_is_better", None)
    return "auto" if larger is None else "max" if larger else "min"


class Scores:
    """The metrics of one pass over a loader, all of them kept on the device until its end.

    Across processes torchmetrics gathers by itself; the means of functions are reduced by `reduce`.

    Args:
        wanted: As `Trainer` takes them.
        reduce: Adds up a tensor over all processes.
        ignored: The class of targets that do not count, as of padding; None: all count.
    """

    def __init__(self, wanted: Wanted, reduce: Callable[[Tensor], Tensor], ignored: int | None = None) -> None:
        self._wanted, self._reduce, self._ignored = wanted, reduce, ignored
        self._metrics: dict[str, Any] | None = None
        self._classes = False
        self._sums: dict[str, Any] = {}
        self._samples = 0
        self._right: Any = 0
        self._counted: Any = 0

    def update(self, outputs: Tensor, targets: Any) -> Any:
        """Takes a batch. Nothing waits for the device.

        Returns:
            The batch's share of samples whose class has the highest score, where targets are classes; else its
            `accuracy`, if that is one of the metrics; else None. A float on a CPU, else a tensor of shape ().
        """
        samples = outputs.shape[0]
        if self._metrics is None:
            self._classes = targets_are_classes(targets, outputs)
            self._metrics = _made(self._wanted, outputs, targets, self._ignored)
        self._samples += samples
        share: Any = None
        for name, metric in self._metrics.items():
            if not hasattr(metric, "update"):
                value = metric(outputs, targets)
                self._sums[name] = self._sums.get(name, 0) + value * samples
            elif name == ACCURACY and not self._classes:
                value = metric(outputs, targets)  # an update that gives the batch's own value
            else:
                metric.update(outputs, targets)
                continue
            if name == ACCURACY:
                share = value
        if self._classes:
            return self._share_right(outputs, targets)
        return share.item() if isinstance(share, Tensor) and share.device.type == "cpu" and share.ndim == 0 else share

    def compute(self) -> dict[str, float]:
        """The values over all batches and processes, and anew from here on.

        Returns:
            By name; a vector's as `name_0`, `name_1`, …, and those of a mapping as `name_key`.

        Raises:
            CallError: A metric is neither a number, nor a vector, nor a mapping of these.
        """
        found: dict[str, float] = {}
        for name, metric in (self._metrics or {}).items():
            if hasattr(metric, "compute"):
                found.update(_numbers(name, metric.compute()))
                metric.reset()
        for name, value in self._sums.items():
            total = torch.as_tensor(value, dtype=torch.float64, device="cpu")
            whole = self._reduce(
                torch.cat([total.flatten(), torch.tensor([float(self._samples)], dtype=torch.float64)])
            )
            found.update(_numbers(name, (whole[:-1] / whole[-1]).reshape(total.shape)))
        if self._classes and self._wanted is None:
            total = self._reduce(torch.tensor([float(self._right), float(self._counted)], dtype=torch.float64))
            found[ACCURACY] = float(total[0] / total[1])
        self._sums, self._samples, self._right, self._counted = {}, 0, 0, 0
        return found

    def _share_right(self, outputs: Tensor, targets: Tensor) -> Any:
        # Few operations: on a CPU each takes 15 us of a step that does much else, NumPy's no less.
        hits = outputs.argmax(1) == targets
        on_cpu = outputs.device.type == "cpu"
        counted: Any = targets.numel()
        if self._ignored is not None and _may_have(self._ignored, targets, on_cpu):
            counts = targets != self._ignored
            counted = torch.count_nonzero(counts)
            if self._ignored >= 0:
                hits &= counts
        right: Any = hits.sum()
        if on_cpu:
            right, counted = right.item(), int(counted)
            share = right / counted if counted else None
        else:
            share = right / counted
        if self._wanted is None:
            self._right, self._counted = self._right + right, self._counted + counted
        return share


def _may_have(ignored: int, targets: Tensor, on_cpu: bool) -> bool:
    # torch's criteria ignore -100 unless they are told otherwise, and few targets have it.
    return not (on_cpu and ignored < 0 and targets.numel()) or targets.min().item() < 0


def _numbers(name: str, value: Any) -> dict[str, float]:
    """What a metric has come to, by name."""
    if isinstance(value, Mapping):
        return {key: each for part in value for key, each in _numbers(f"{name}_{part}", value[part]).items()}
    held = torch.as_tensor(value)
    if held.numel() == 1:
        return {name: float(held)}
    if held.ndim != 1:
        raise CallError(
            f"the metric {name!r} is of shape {tuple(held.shape)}; it is a number, a vector or a mapping of these: log "
            "others by a callback"
        )
    return {f"{name}_{number}": float(each) for number, each in enumerate(held)}


def _made(wanted: Wanted, outputs: Tensor, targets: Any, ignored: int | None) -> dict[str, Any]:
    """The metrics for outputs of such a shape."""
    if wanted is None:
        return {}
    if isinstance(wanted, Mapping):
        from copy import deepcopy

        # A copy for each pass: training and validation would share what torchmetrics counts otherwise.
        return {
            name: deepcopy(metric).to(outputs.device) if hasattr(metric, "update") else metric
            for name, metric in wanted.items()
        }
    return {name: _named(name, outputs, targets, ignored) for name in wanted}


def _named(name: str, outputs: Tensor, targets: Any, ignored: int | None) -> Any:
    try:
        import torchmetrics
    except ImportError as error:
        raise CallError(f"the metric {name!r} is torchmetrics': pip install 'tailrace[training]'") from error
    path, arguments = NAMED[name]
    arguments = dict(arguments)
    if "{}" in path:
        classes = targets_are_classes(targets, outputs)
        path = path.format("Multiclass" if classes else "Binary")
        arguments["validate_args"] = False  # looking at the values would wait for the device
        if classes:
            arguments.update(num_classes=outputs.shape[1], ignore_index=ignored)
        else:
            arguments.pop("average", None)
    found: Any = torchmetrics
    for part in path.split("."):
        found = getattr(found, part)
    return found(**arguments).to(outputs.device)
