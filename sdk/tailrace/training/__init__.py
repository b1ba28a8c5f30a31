"""Training that is tracked by itself: loops of PyTorch, estimators of scikit-learn and boosters, evaluations.

It stands on `tailrace.protocol` alone, so that it takes any tracker; torch, scikit-learn and the rest are imported
with what uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.training.pytorch.callbacks import Callback
from tailrace.training.result import TrainingResult

if TYPE_CHECKING:
    from tailrace.training.configured.from_config import train_from_config
    from tailrace.training.estimators.fitting import fit
    from tailrace.training.evaluation.evaluator import EvaluationResult, Evaluator
    from tailrace.training.pytorch.trainer import Trainer

__all__ = ["Callback", "EvaluationResult", "Evaluator", "Trainer", "TrainingResult", "fit", "train_from_config"]

_LATER = {
    "EvaluationResult": "evaluation.evaluator",
    "Evaluator": "evaluation.evaluator",
    "Trainer": "pytorch.trainer",
    "fit": "estimators.fitting",
    "train_from_config": "configured.from_config",
}
_PACKAGES = {"sklearn": "scikit-learn", "torch": "torch", "torchmetrics": "torchmetrics"}


def __dir__() -> list[str]:
    """What is here, with what is loaded on first use."""
    return sorted({*globals(), *_LATER})


def __getattr__(name: str) -> object:
    """What is loaded on first use, since it brings torch or scikit-learn."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        globals()[name] = found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(str(error.name).partition(".")[0])
        if package is None:
            raise
        wanted = f"{__name__}.{name} needs {package}: pip install 'tailrace[training]'"
        raise ImportError(wanted, name=error.name) from error
    return found
