"""A model as it is at the call: a copy that later training cannot change, and how MLflow is going to save it.

Nothing here imports a framework: what a model belongs to follows from the frameworks that are loaded already.
"""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SAVED", "FrozenModel", "freeze_model"]

SAVED: Final = "saved"
"""In place of a flavour: the model is a directory that MLflow has written."""

_KINDS: Final = (
    ("xgboost", "xgboost", ("Booster", "XGBModel")),  # before scikit-learn, whose interface XGBModel has
    ("pytorch", "torch.nn", ("Module",)),
    ("sklearn", "sklearn.base", ("BaseEstimator",)),
    ("pyfunc", "mlflow.pyfunc", ("PythonModel",)),
)
_WRAPPERS: Final = ("DistributedDataParallel", "DataParallel")


class FrozenModel(NamedTuple):
    """A model to be saved: nothing that the caller does afterwards changes it.

    Attributes:
        flavor: MLflow's flavour, or `SAVED`.
        model: The copy; for `SAVED` the path.
        example: A copy of the input example.
    """

    flavor: str
    model: Any
    example: Any


def freeze_model(model: Any, flavor: str | None, example: Any) -> FrozenModel:
    """Copies a model and its input example.

    A PyTorch module on a GPU is copied there, on the current stream, without a wait; when the GPU has no room for a
    second one, the copy goes to the CPU. `torch.compile` and data-parallel wrappers are taken off.

    Raises:
        CallError: It is of no kind that is known, or cannot be copied; the message says what to do.
    """
    if isinstance(model, (str, os.PathLike)):
        return FrozenModel(SAVED, _saved(Path(model)), None)
    flavor = flavor or _flavor(model)
    model = _unwrapped(model)
    try:
        taken = _copied_module(model) if _is_module(model) else copy.deepcopy(model)
        return FrozenModel(flavor, taken, _copied(example))
    except Exception as error:
        raise CallError(
            f"a model of type {type(model).__name__} cannot be copied ({error}): save it with "
            f"mlflow.{flavor}.save_model(…, path), and pass that path"
        ) from error


def _saved(path: Path) -> Path:
    if not (path / "MLmodel").is_file():
        raise CallError(f"{path} is no model that MLflow has saved: there is no file MLmodel in it")
    return path


def _flavor(model: Any) -> str:
    for flavor, module, names in _KINDS:
        loaded = sys.modules.get(module)
        kinds = tuple(kind for name in names if isinstance(kind := getattr(loaded, name, None), type))
        if isinstance(model, kinds):
            return flavor
    # Last: PyTorch's modules are callable, too.
    if callable(model):
        return "pyfunc"
    raise CallError(
        f"a model of type {type(model).__name__} is none that log_model knows (PyTorch, scikit-learn, XGBoost, "
        "mlflow.pyfunc.PythonModel, a function): name one of MLflow's flavors with flavor=, or save it with MLflow "
        "and pass the path"
    )


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _unwrapped(model: Any) -> Any:
    """The module inside `torch.compile` and data-parallel wrappers: only that one can be copied and loaded again."""
    while _is_module(model):
        # What `torch.compile` keeps of the module that it wraps.
        inner = getattr(model, "_orig_mod", None)
        if type(model).__name__ in _WRAPPERS:
            inner = model.module
        if inner is None:
            break
        model = inner
    return model


def _copied_module(module: Any) -> Any:
    torch = sys.modules["torch"]
    with torch.no_grad():
        try:
            return copy.deepcopy(module, _within_graphs(module))
        except torch.cuda.OutOfMemoryError:
            on_cpu = {id(tensor): _on_cpu(tensor) for tensor in (*module.parameters(), *module.buffers())}
            # As the memo: deepcopy takes these in the place of copies of its own, on the GPU.
            return copy.deepcopy(module, {**_within_graphs(module), **on_cpu})


def _within_graphs(module: Any) -> dict[int, Any]:
    """Copies of what a module has kept of its last call: tensors in the middle of a graph have no deep copy."""
    tensor = sys.modules["torch"].Tensor
    # An attribute such as `self.attention = …` in `forward`; parameters are leaves and can be copied.
    kept = (value for part in module.modules() for value in (*vars(part).values(), *part.buffers(recurse=False)))
    return {id(value): value.detach().clone() for value in kept if isinstance(value, tensor) and not value.is_leaf}


def _on_cpu(tensor: Any) -> Any:
    kind = type(tensor)
    taken = tensor.detach().to("cpu", copy=True)
    # `to` gives a plain tensor in the place of a parameter.
    return kind(taken, requires_grad=tensor.requires_grad) if kind.__name__ == "Parameter" else taken


def _copied(value: Any) -> Any:
    """An input example; a tensor in the middle of a graph has no deep copy of its own."""
    if isinstance(value, dict):
        mapping: Mapping[Any, Any] = value
        return {key: _copied(entry) for key, entry in mapping.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(entry) for entry in value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().clone()
    return copy.deepcopy(value)
