"""Which names of MLflow's there are, and what stands for them: `tailrace.<anything of MLflow's>`.

* A function is MLflow's own, called beside tailrace's active run (`beside.call_beside`); those of tracing, which return
  spans and decorate functions, are as they are; their traces name the active run (`traced`).
* A module (a flavour, `artifacts`, `genai`) is MLflow's, with its functions called that way.
* All else, classes above all, is MLflow's very object.

Whether MLflow has a name is looked up in its source, so that a slip costs no import of MLflow.
"""

from __future__ import annotations

import re
import sys
import types
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace._api.tracker_core import TrackerCore

__all__ = ["handed", "handed_config", "known_names", "mlflow_may_have"]

_AS_THEY_ARE: Final = ("mlflow.tracing",)
"""What they return lives longer than the call."""
_PLAIN_MODULES: Final = frozenset(
    (
        *(
            "client",
            "config",
            "data",
            "entities",
            "environment_variables",
            "exceptions",
            "store",
            "tracing",
            "tracking",
        ),
        *("types", "utils", "version"),
    )
)
"""Modules that look at no active run."""


@lru_cache(maxsize=4096)
def mlflow_may_have(name: str) -> bool:
    """Whether a name stands in the source of MLflow's package; MLflow is not imported for it."""
    return any(
        (place / name).is_dir() or (place / f"{name}.py").is_file() or _mentioned(place, name) for place in _places()
    )


def handed(tracker: TrackerCore, name: str) -> Any:
    """What `tailrace` has under a name of MLflow's.

    Args:
        tracker: The core of the module's tracker.
        name: The name.

    Raises:
        AttributeError: MLflow has none of that name.
    """
    import mlflow

    return _seen_from(tracker, mlflow, name)


def handed_config(tracker: TrackerCore, name: str) -> Any:
    """The same for `tailrace.config`, and what `mlflow.config` has.

    Raises:
        AttributeError: It has none of that name.
    """
    import mlflow.config

    if name not in mlflow.config.__all__:
        raise AttributeError(f"module 'tailrace.config' has no attribute {name!r}")
    return _seen_from(tracker, mlflow.config, name)


def known_names() -> list[str]:
    """MLflow's public names, if the program has imported MLflow; to list them is no reason to import it."""
    return list(getattr(sys.modules.get("mlflow"), "__all__", ()))


@lru_cache(maxsize=4096)
def _seen_from(tracker: TrackerCore, owner: types.ModuleType, name: str) -> Any:
    found = getattr(owner, name)
    if isinstance(found, types.ModuleType):
        return found if name in _PLAIN_MODULES else _Beside(tracker, found)
    home = getattr(found, "__module__", None) or ""
    if not isinstance(found, types.FunctionType) or not home.startswith("mlflow."):
        return found
    if home.startswith(_AS_THEY_ARE):
        from tailrace._fluent.beside import agree
        from tailrace._fluent.traced import have_traces_name_the_run

        agree(tracker)
        have_traces_name_the_run(tracker.runs)
        return found
    return _called_beside(tracker, found)


def _called_beside(tracker: TrackerCore, function: Callable[..., Any]) -> Callable[..., Any]:
    from functools import wraps

    from tailrace._fluent.beside import call_beside

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return call_beside(tracker, function, args, kwargs)

    return call


class _Beside(types.ModuleType):
    """A module of MLflow's, whose functions are called beside tailrace's active run."""

    def __init__(self, tracker: TrackerCore, module: types.ModuleType) -> None:
        super().__init__(module.__name__, module.__doc__)
        self._tracker, self._module = tracker, module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # whoever looks at a module for what it is: that loads no flavour
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return _seen_from(self._tracker, self._module, name)

    def __dir__(self) -> list[str]:
        return dir(self._module)


def _places() -> list[Path]:
    spec = find_spec("mlflow")
    return [Path(place) for place in spec.submodule_search_locations or ()] if spec is not None else []


def _mentioned(place: Path, name: str) -> bool:
    source = place / "__init__.py"
    return re.search(rf"\b{re.escape(name)}\b", source.read_text(errors="replace")) is not None
