"""Estimators by the names that configurations have for them: `random_forest_classifier`, or a dotted path."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

from tailrace.training.nearest_name import advice
from tailrace_agent.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tailrace.training.measures.metric_names import Task

__all__ = ["FRAMEWORKS", "Framework", "build_estimator", "from_dotted_path"]

Framework = Literal["sklearn", "xgboost", "lightgbm", "torch"]
FRAMEWORKS: Final = ("sklearn", "xgboost", "lightgbm", "torch")
_PACKAGES: Final = {"sklearn": "scikit-learn"}
_SUFFIXES: Final[dict[Task | None, tuple[str, ...]]] = {
    "classification": ("", "classifier"),
    "regression": ("", "regressor"),
    None: ("",),
}
_BOOSTERS: Final = {
    "xgboost": ("XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor"),
    "lightgbm": ("LGBMClassifier", "LGBMRegressor"),
}
_ALIASES: Final = {
    "xgboost_classifier": "xgb_classifier",
    "xgboost_regressor": "xgb_regressor",
    "lightgbm_classifier": "lgbm_classifier",
    "lightgbm_regressor": "lgbm_regressor",
    "random_forest_classification": "random_forest_classifier",
    "random_forest_regression": "random_forest_regressor",
}


def build_estimator(
    framework: str, model_type: str, task: Task | None, parameters: Mapping[str, Any], where: str, folder: Path
) -> Any:
    """Makes an estimator.

    Args:
        framework: `sklearn`, `xgboost` or `lightgbm`.
        model_type: The class in snake_case (with the task, `random_forest` is enough), or the dotted path of a class or
            function, of any package.
        task: What it is for, if that is known.
        parameters: Passed to it.
        where: How to call the place in a message.
        folder: Where the module of a dotted path may lie, if it is found nowhere else.

    Raises:
        SettingsError: There is no such class or parameter; the nearest is named. Or a package is not installed.

    Example:
        >>> build_estimator("sklearn", "random_forest", "classification", {"max_depth": 5}, "model", Path())
        RandomForestClassifier(max_depth=5)
    """
    if "." in model_type:
        kind = from_dotted_path(model_type, f"{where}.model_type", folder)
    else:
        kind = _class_of(framework, model_type, task, f"{where}.model_type")
    _check_parameters(kind, parameters, f"{where}.parameters")
    return kind(**parameters)


def from_dotted_path(path: str, where: str, folder: Path) -> Any:
    """What a dotted path leads to: `my_models.Ensemble`.

    Raises:
        SettingsError: There is no such module, or nothing of that name in it.
    """
    module_name, _, name = path.rpartition(".")
    try:
        with _also_in(folder):
            module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise SettingsError(f"{where} is {path!r}: there is no module {error.name!r}") from None
    if not callable(found := getattr(module, name, None)):
        public = [each for each in dir(module) if not each.startswith("_") and callable(getattr(module, each))]
        raise SettingsError(f"{where} is {path!r}: {module_name} has no {name!r}; {advice(name, public)}")
    return found


@contextlib.contextmanager
def _also_in(folder: Path) -> Iterator[None]:
    """Modules are looked for there last, and for this one import alone: nothing else is to be found there by chance."""
    place = str(folder.absolute())
    sys.path.append(place)
    try:
        yield
    finally:
        sys.path.reverse()
        sys.path.remove(place)
        sys.path.reverse()


def _class_of(framework: str, model_type: str, task: Task | None, where: str) -> Any:
    known = _sklearn_classes(task) if framework == "sklearn" else _booster_classes(framework, where)
    name = _ALIASES.get(model_type, model_type)
    for suffix in _SUFFIXES[task]:
        wanted = f"{name}_{suffix}" if suffix else name
        if (found := known.get(_plain(wanted))) is not None:
            return found
    if task is not None and framework != "sklearn" and model_type in (framework, framework.removesuffix("boost")):
        return known[_plain(f"{_BOOSTERS[framework][0][:3]}{_SUFFIXES[task][1]}")]
    names = {_snake(kind.__name__) for kind in known.values()}
    other = f" for {task}" if task is not None else ""
    raise SettingsError(f"{where} is {model_type!r}: {framework} has no such model{other}; {advice(model_type, names)}")


def _sklearn_classes(task: Task | None) -> dict[str, Any]:
    from sklearn.utils import all_estimators

    kinds = {"classification": "classifier", "regression": "regressor"}
    return {_plain(name): kind for name, kind in all_estimators(kinds.get(task or ""))}


def _booster_classes(framework: str, where: str) -> dict[str, Any]:
    try:
        module = import_module(framework)
    except ImportError as error:
        raise SettingsError(f"{where}: {framework} cannot be imported ({error}): pip install {framework}") from None
    return {_plain(name): getattr(module, name) for name in _BOOSTERS[framework]}


def _plain(name: str) -> str:
    """How names are compared: `svc`, `SVC`, `random_forest_classifier`, `RandomForestClassifier`."""
    return name.replace("_", "").replace("-", "").lower()


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _check_parameters(kind: Any, parameters: Mapping[str, Any], where: str) -> None:
    """A parameter that nobody knows; where any are taken, the estimator has to say so itself."""
    try:
        accepted = inspect.signature(kind).parameters
    except (TypeError, ValueError):  # of a class in C
        return
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values()):
        return
    for name in parameters:
        if name not in accepted:
            label = getattr(kind, "__name__", str(kind))
            raise SettingsError(f"{where}.{name} is no parameter of {label}; {advice(str(name), accepted)}")
