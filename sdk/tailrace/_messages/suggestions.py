"""What somebody meant who wrote an argument or a function that there is not: a slip, or another tracker's word."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

__all__ = ["Suggests", "instead_of_argument", "instead_of_function", "is_import"]

_ARGUMENTS: Final = {
    "name": "run_name", "display_name": "run_name", "title": "run_name",
    "config": "params", "hparams": "params", "hyperparameters": "params", "parameters": "params",
    "project": "experiment_name", "project_name": "experiment_name", "experiment": "experiment_name",
    "notes": "description", "note": "description",
    "id": "run_id", "resume": "run_id", "resume_from": "run_id", "existing_run_id": "run_id",
    "parent": "parent_run_id", "uri": "tracking_uri", "host": "tracking_uri", "url": "tracking_uri",
    "mode": "agent", "job_type": "tags", "group": "tags", "labels": "tags",
    "system_metrics": "log_system_metrics", "monitor_gpus": "log_system_metrics",
}  # fmt: skip
"""Arguments of other trackers, and what they are called here."""
_FUNCTIONS: Final = {
    "init": "start_run(run_name=…, experiment_name=…, params=…)",
    "finish": "end_run()", "stop": "end_run()", "close": "end_run()", "finish_run": "end_run()",
    "log_metric_batch": "log({…}, step=…)", "track": "log({…}, step=…)", "log_scalar": "log({name: value}, step=…)",
    "add_scalar": "log({name: value}, step=…)", "add_scalars": "log({…}, step=…)", "report_scalar": "log({…}, step=…)",
    "config": "log_params({…}), or start_run(params={…})", "log_hyperparams": "log_params({…})",
    "log_parameters": "log_params({…})", "log_metrics_batch": "log({…}, step=…)",
    "save": "log_artifact(path)", "upload_file": "log_artifact(path)", "log_file": "log_artifact(path)",
    "Image": "log_image(array, key=…, step=…)", "Table": "log_table(columns, 'name.json')", "run": "active_run()",
    "summary": "log({…}): MLflow keeps the last value of each metric", "watch": "log({…}, step=…) of what you want",
    "log_batch": "log({…}, step=…)",
}  # fmt: skip
"""Functions of other trackers, and what does the same."""


def instead_of_argument(name: str, function: str, known: Iterable[str]) -> str:
    """A sentence on an argument that a function does not take.

    Example:
        >>> instead_of_argument("run_nam", "start_run", ["run_name", "tags"])
        "start_run takes no argument 'run_nam'; did you mean run_name?"
    """
    from difflib import get_close_matches

    names = list(known)
    text = f"{function} takes no argument {name!r}"
    word = _ARGUMENTS.get(name)
    # `tags` for `group`, say, is no help where the function has no `tags`.
    if word in names:
        return f"{text}; here it is called {word}"
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"{text}; did you mean {near[0]}?" if near else f"{text}; see help(tailrace.{function}) and docs/settings.md"


def instead_of_function(name: str, known: Iterable[str], owner: str = "module 'tailrace'") -> str:
    """A sentence on a function that tailrace does not have.

    Example:
        >>> instead_of_function("finish", ["end_run"])
        "module 'tailrace' has no attribute 'finish'; here it is end_run()"
    """
    from difflib import get_close_matches

    text = f"{owner} has no attribute {name!r}"
    if name in _FUNCTIONS:
        return f"{text}; here it is {_FUNCTIONS[name]}"
    if _is_mlflows(name):
        return f"{text}; it is MLflow's own, and for the active run: tailrace.{name}"
    near = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"{text}; did you mean {near[0]}?" if near else text


def is_import(package: str, name: str) -> bool:
    """Whether the `__getattr__` that calls this was called for `from package import name`, and there is none.

    Of a package the import system first looks for an attribute, and then for a module of that name.
    """
    try:
        # 0 is this function, 1 the `__getattr__`, 2 whoever has looked for the name.
        caller = sys._getframe(2).f_code
    except ValueError:  # called from C
        return False
    # There an AttributeError with a suggestion would become an ImportError without it.
    return caller.co_name == "_handle_fromlist" and find_spec(f"{package}.{name}") is None


def _is_mlflows(name: str) -> bool:
    """Whether MLflow has that name in its public API. Does not import MLflow."""
    spec = find_spec("mlflow")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        root = Path(place)
        if (root / name / "__init__.py").is_file() or (root / f"{name}.py").is_file():
            return True
        if f'"{name}",' in (root / "__init__.py").read_text(errors="replace"):
            return True
    return False


class Suggests:
    """Suggests what was meant by a method that there is not. A base of `Run` and `Tracker`."""

    if not TYPE_CHECKING:  # or every name would be one for a type checker

        def __getattr__(self, name: str) -> Any:
            # copy, pickle and IPython look for such names, and go on where there are none.
            if name.startswith("_"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            known = [each for each in dir(type(self)) if not each.startswith("_")]
            raise AttributeError(instead_of_function(name, known, f"{type(self).__name__!r} object"))
