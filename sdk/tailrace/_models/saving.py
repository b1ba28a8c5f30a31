"""Saves a frozen model in MLflow's format, in the background thread: the classes of a script can only be saved there.

What this module promises:

* MLflow is imported here, at the first model. That takes about a second of a core, in slices of the interpreter's
  switch interval.
* The environment that is written down is that of this process, by package metadata. MLflow would start another
  process, load the model there, and watch what is imported, which takes many seconds; `MLMODEL` holds the same.
* MLflow's module state, its environment variables and the program's logging are left alone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
import shutil
import sys
import threading
import types
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tailrace._models.copying import FrozenModel

__all__ = ["flavor_module", "save_model"]

_ENVIRONMENT: Final = ("conda_env", "pip_requirements")
# What the format of a flavour needs, though none of the model's own classes comes from it.
_FORMATS: Final = {"sklearn": ("skops",)}
# Of the warning's text: it has no class or code of its own.
_CAUTION: Final = "requires exercising caution"


def save_model(
    frozen: FrozenModel,
    path: Path,
    *,
    signature: Any,
    keep_example: bool = True,
    metadata: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes a model to a directory that does not exist yet.

    Args:
        frozen: The model and its input example.
        path: The directory.
        signature: `infer` takes it from the example; None and False write none; else an MLflow `ModelSignature`.
        keep_example: Keep the example with the model; it serves for the signature either way.
        metadata: Kept in `MLmodel`.
        options: Passed to the flavour's own `save_model`.

    Raises:
        Exception: Whatever MLflow and the model's framework raise.
    """
    flavor = flavor_module(frozen.flavor)
    model = _at_rest(frozen.model)
    arguments = {
        # For MLflow None means "from the example", and False means none.
        "signature": (None if frozen.example is not None else False) if signature == "infer" else signature or False,
        "input_example": _as_arrays(frozen.example),
        "metadata": None if metadata is None else dict(metadata),
        **options,
    }
    if not any(name in arguments for name in _ENVIRONMENT):
        # MLflow takes either a list of requirements or additions to its own, not both.
        extra = list(arguments.pop("extra_pip_requirements", None) or [])
        arguments["pip_requirements"] = _requirements(frozen.flavor, model) + extra
    first: dict[str, Any] = {"python_model": model} if frozen.flavor == "pyfunc" else {_first_of(flavor): model}
    with _without_caution(flavor):
        _save(flavor, {**first, "path": str(path), **arguments}, path)
    if not keep_example:
        _forget_example(path)


def flavor_module(flavor: str) -> Any:
    """Imports one of MLflow's flavours, and leaves the program's logging as it is.

    `mlflow.pytorch` calls `logging.basicConfig(level=ERROR)` as it is imported, after which the program's own
    `basicConfig` does nothing, and nobody sees a warning any more. Exactly that is undone.

    Example:
        >>> flavor_module("sklearn").load_model(path)
    """
    root = logging.getLogger()
    level, configured = root.level, bool(root.handlers)
    try:
        return importlib.import_module(f"mlflow.{flavor}")
    finally:
        now = root.handlers[:]
        # Only exactly what `mlflow.pytorch` does: a configuration of the program's own, in another thread, stays.
        if not configured and root.level == logging.ERROR and [type(one) for one in now] == [logging.StreamHandler]:
            root.removeHandler(now[0])
            root.setLevel(level)


def _save(flavor: types.ModuleType, arguments: dict[str, Any], path: Path) -> None:
    # By the signature, not the version: the argument has come to flavours one by one.
    formats = "serialization_format" in inspect.signature(flavor.save_model).parameters
    chosen = arguments.get("serialization_format")
    if formats and chosen is None and flavor.__name__ == "mlflow.pytorch":
        # The module itself comes back, whatever it is. MLflow's own default is a traced graph, and needs an example.
        arguments = {**arguments, "serialization_format": "pickle"}
    try:
        flavor.save_model(**arguments)
    except Exception:
        # skops, which newer MLflow prefers, takes no classes but those that it trusts.
        if not formats or chosen is not None or flavor.__name__ != "mlflow.sklearn":
            raise
        # MLflow refuses a directory that exists, and the first try has begun one.
        shutil.rmtree(path, ignore_errors=True)
        flavor.save_model(**{**arguments, "serialization_format": "cloudpickle"})


def _forget_example(path: Path) -> None:
    from mlflow.models import Model

    model = Model.load(str(path))
    if model.saved_input_example_info is not None:
        model.saved_input_example_info = None
        # Before the files go, so that MLmodel never names what is not there.
        model.save(str(path / "MLmodel"))
        for file in path.glob("*input_example.json"):
            file.unlink()


def _first_of(flavor: types.ModuleType) -> str:
    """What the flavour calls its model: `sk_model`, `pytorch_model` and so on."""
    return next(iter(inspect.signature(flavor.save_model).parameters))


def _at_rest(model: Any) -> Any:
    """The copy of a PyTorch module, moved to the CPU when it is complete, so that it loads where there is no GPU.

    In evaluation mode, in which it will be loaded: MLflow calls it for the signature, and in training mode that would
    move the statistics of its batch norms, and take random numbers from the training that goes on.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return model
    with contextlib.suppress(NotImplementedError):  # exported programs have no modes
        model.eval()
    tensors = (*model.parameters(), *model.buffers())
    for device in {tensor.device for tensor in tensors if tensor.device.type == "cuda"}:
        # The copy may be queued on a stream of the caller's own, for which this thread's work does not wait.
        torch.cuda.synchronize(device)
    return model if all(tensor.device.type == "cpu" for tensor in tensors) else model.cpu()


def _as_arrays(example: Any) -> Any:
    """MLflow takes arrays as input examples, and no tensors."""
    if isinstance(example, dict):
        return {key: _as_arrays(value) for key, value in example.items()}
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(example, torch.Tensor):
        return example.cpu().numpy()
    return example


def _requirements(flavor: str, model: Any) -> list[str]:
    """The packages that the model's classes come from, each in the version of this process."""
    from importlib.metadata import version

    wanted = {"cloudpickle", *_FORMATS.get(flavor, ())}
    for root in _roots(model):
        # The first one: several packages may bring one module (a namespace), and one of them will do.
        wanted.update(_owners().get(root, ())[:1])
    installed = {name for names in _owners().values() for name in names}
    # Without the label of a build (2.13.0+cpu), which no package index has.
    return sorted(f"{name}=={version(name).partition('+')[0]}" for name in wanted & installed)


# It reads the metadata of every package that is installed.
@functools.lru_cache(maxsize=1)
def _owners() -> Mapping[str, list[str]]:
    """The packages that are installed here, by the modules that they bring."""
    from importlib.metadata import packages_distributions

    return packages_distributions()


def _roots(model: Any) -> set[str]:
    """Top-level modules that a model, or the classes of it and of its parts, come from."""
    if inspect.isfunction(model):
        return {model.__module__.partition(".")[0]}
    parts = list(model.modules()) if hasattr(model, "modules") else [model, *_steps(model)]
    # Of base classes as well: a class of the script inherits from torch, which is needed to load it.
    return {kind.__module__.partition(".")[0] for part in parts for kind in type(part).__mro__}


def _steps(model: Any) -> list[Any]:
    """The estimators inside a scikit-learn pipeline or search."""
    params = model.get_params() if hasattr(model, "get_params") and not isinstance(model, type) else {}
    return [value for value in params.values() if hasattr(value, "fit")]


@contextlib.contextmanager
def _without_caution(flavor: types.ModuleType) -> Iterator[None]:
    """MLflow warns of pickles whenever it writes one; docs/models.md warns once, and not at each checkpoint."""
    saver = threading.get_ident()

    def other(record: logging.LogRecord) -> bool:
        # The program's own saves, in other threads, are warned of as ever.
        return record.thread != saver or _CAUTION not in record.getMessage()

    logger = logging.getLogger(flavor.__name__)
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
