"""`train_from_config`: what a file says is trained, on the data that it names.

What this module promises:

* A key that is unknown is a `SettingsError` that names it and the nearest one; so is everything else that can be seen
  to be wrong before anything starts.
* A relative path is meant from the file's directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from tailrace.config import build_tracker_from_config, load_config
from tailrace.training.config_tables import read_struct
from tailrace.training.configured.data_files import check_numbers, read_table, target_and_features
from tailrace.training.configured.model_types import FRAMEWORKS, build_estimator
from tailrace.training.configured.torch_config import TorchOptions, TorchTraining
from tailrace.training.estimators.fitting import carry_out
from tailrace.training.estimators.plan import planned
from tailrace.training.estimators.searched import planned_search
from tailrace.training.nearest_name import advice
from tailrace.training.result import TrainingResult
from tailrace.training.runs.run_log import default_tracker, has_active_run
from tailrace_agent.errors import CallError, SettingsError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from tailrace.config import TrackingConfig
    from tailrace.protocol import TrackerLike
    from tailrace.training.estimators.plan import Plan

__all__ = ["ModelConfig", "TrainingConfig", "train_from_config"]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which model.

    Attributes:
        framework: `sklearn`, `xgboost`, `lightgbm` or `torch`.
        model_type: The class in snake_case, or a dotted path.
        task_type: What it is for; by default what the class is for.
        parameters: Passed to the class.
    """

    framework: str
    model_type: str
    task_type: Literal["classification", "regression"] | None = None
    parameters: dict[str, Any] = {}


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is trained, and on what.

    Attributes:
        model: Which model.
        data: A CSV or Parquet file.
        target_column: The column that is to be predicted.
        features: The columns to learn from; all others by default.
        leave_out: Columns to leave out.
        validation: A share of the rows to measure with, or another file.
        cv: Folds of a cross-validation beforehand.
        metrics: Names, as for `fit`.
        register: Registers the model under this name.
        run_name: Of the run.
        torch: How a PyTorch model is trained.
    """

    model: ModelConfig
    data: str
    target_column: str
    features: list[str] | None = None
    leave_out: list[str] = []
    validation: float | str | None = 0.2
    cv: int | None = None
    metrics: list[str] | str | None = None
    register: str | None = None
    run_name: str | None = None
    torch: TorchOptions = TorchOptions()


_SEARCH: Final = "hyperparameter_optimization"
_KNOWN_AT_THE_TOP: Final = ("training", _SEARCH, "mlflow", "tracking", "name", "seed")


def train_from_config(
    config: str | os.PathLike[str] | Mapping[str, Any],
    *,
    overrides: Mapping[str, Any] | None = None,
    tracker: TrackerLike | None = None,
) -> TrainingResult:
    """Trains what a configuration says, as `fit` does, and tracks it.

    Args:
        config: A YAML, TOML or JSON file, or a dictionary. `mlflow:` says where to (as for `load_config`), `training:`
            what, `hyperparameter_optimization:` whether parameters are searched for; see docs/estimators.md.
        overrides: Values by their dotted names (`training.model.parameters.max_depth`), stronger than the file's.
        tracker: Takes everything; by default one that is built from the configuration, or within an active run
            tailrace's own.

    Returns:
        What it has come to.

    Raises:
        SettingsError: The configuration, or what it says of the data, is wrong; nothing was started.
        CallError: The data can never work; nothing was started.
        Exception: Whatever the model raises, as it is. The run is FAILED.

    Example:
        >>> train_from_config("digits.yaml", overrides={"training.model.parameters.max_depth": 5})["val_accuracy"]
        0.97
    """
    tracking = load_config(config, overrides=overrides)
    where = tracking.source or "the config"
    training = _training_of(tracking, where)
    name = training.run_name or tracking.run_name or tracking.name
    if training.model.framework == "torch":
        planned_torch = _torch(training, tracking, where)
        tracker = _tracker_of(tracking) if tracker is None else tracker
        return planned_torch.run(tracker, run_name=name, register=training.register, config=tracking.experiment)
    plan = _planned(training, tracking, where)
    options = tracking.experiment.get(_SEARCH)
    try:
        search = planned_search(plan, options, f"{where}: {_SEARCH}")
    except CallError as error:  # too few rows for the folds
        raise SettingsError(f"{where}: {_SEARCH}: {error}") from None
    tracker = _tracker_of(tracking) if tracker is None else tracker
    return carry_out(
        plan, tracker, run_name=name, register=training.register, config=tracking.experiment, search=search
    )


def _training_of(tracking: TrackingConfig, where: str) -> TrainingConfig:
    document = tracking.experiment
    for key in document:
        if key not in _KNOWN_AT_THE_TOP:
            raise SettingsError(f"{where}: {key} is no key of a training; {advice(str(key), _KNOWN_AT_THE_TOP)}")
    if not isinstance(document.get("training"), dict):
        raise SettingsError(f"{where} has no table `training`: what is to be trained, and on what")
    return read_struct(document["training"], TrainingConfig, f"{where}: training")


def _planned(training: TrainingConfig, tracking: TrackingConfig, where: str) -> Plan:
    model, place = training.model, f"{where}: training"
    if model.framework not in FRAMEWORKS:
        hint = advice(model.framework, FRAMEWORKS)
        raise SettingsError(f"{place}.model.framework is {model.framework!r}; {hint}")
    folder = _folder(tracking)
    rows, validation = _data(training, folder, place)
    if "." not in model.model_type:  # a class of somebody's own may take anything
        check_numbers(rows[0], place)
    parameters = dict(model.parameters)
    estimator = build_estimator(
        model.framework, model.model_type, model.task_type, parameters, f"{place}.model", folder
    )
    if tracking.seed is not None and "random_state" not in parameters and _takes_seed(estimator):
        estimator.set_params(random_state=tracking.seed)
    seed = 0 if tracking.seed is None else tracking.seed
    try:
        plan = planned(
            estimator,
            *rows,
            validation=validation,
            cv=training.cv,
            metrics=training.metrics,
            fit_params=None,
            seed=seed,
        )
    except CallError as error:
        raise SettingsError(f"{place}: {error}") from None
    if model.task_type not in (None, plan.task):
        raise SettingsError(
            f"{place}.model.task_type is {model.task_type}, and {type(estimator).__name__} is for {plan.task}"
        )
    return plan


def _torch(training: TrainingConfig, tracking: TrackingConfig, where: str) -> TorchTraining:
    model, place = training.model, f"{where}: training"
    if model.task_type is None:
        raise SettingsError(f"{place}.model.task_type is missing: a module does not say what it is for")
    if "." not in model.model_type:
        raise SettingsError(f"{place}.model.model_type is {model.model_type!r}: name a module's class, my_models.Net")
    for name, given in (("training.cv", training.cv), (_SEARCH, tracking.experiment.get(_SEARCH))):
        if given is not None:
            raise SettingsError(f"{where}: {name} is not for torch")
    folder = _folder(tracking)
    rows, validation = _data(training, folder, place)
    check_numbers(rows[0], place)
    module = build_estimator("torch", model.model_type, None, model.parameters, f"{place}.model", folder)
    return TorchTraining(
        module,
        model.task_type,
        rows,
        validation,
        options=training.torch,
        metrics=training.metrics,
        seed=0 if tracking.seed is None else tracking.seed,
        place=place,
    )


def _folder(tracking: TrackingConfig) -> Path:
    return Path(tracking.source).parent if tracking.source else Path.cwd()


def _data(training: TrainingConfig, folder: Path, place: str) -> tuple[tuple[Any, Any], Any]:
    """What is trained on, and what is validated with: other rows, a share, or None."""
    rows = _read(training, folder / Path(training.data).expanduser(), f"{place}.data", place)
    validation: Any = training.validation
    if isinstance(validation, str):
        validation = _read(training, folder / Path(validation).expanduser(), f"{place}.validation", place)
    return rows, validation


def _read(training: TrainingConfig, path: Path, where: str, place: str) -> tuple[Any, Any]:
    frame = read_table(path, where)
    return target_and_features(frame, training.target_column, training.features, training.leave_out, place)


def _takes_seed(estimator: Any) -> bool:
    return hasattr(estimator, "get_params") and "random_state" in estimator.get_params(deep=False)


def _tracker_of(tracking: TrackingConfig) -> TrackerLike:
    default = default_tracker()
    if has_active_run(default) or not tracking.tracker_settings({}):
        return default
    return build_tracker_from_config(tracking)
