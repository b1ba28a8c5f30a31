"""`fit`: an estimator with scikit-learn's interface is trained, measured, explained and kept, in one run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tailrace.training.estimators.boosting_rounds import booster_of, round_logging
from tailrace.training.estimators.cross_validation import cross_validate
from tailrace.training.estimators.importances import draw_importances, importances_of
from tailrace.training.estimators.plan import params_of, planned
from tailrace.training.estimators.searched import planned_search
from tailrace.training.measures.input_data import first_rows, without_categories
from tailrace.training.measures.predictions import predict, scores
from tailrace.training.result import TrainingResult
from tailrace.training.runs.run_log import default_tracker, open_run, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tailrace.protocol import TrackerLike
    from tailrace.training.estimators.plan import Plan
    from tailrace.training.estimators.searched import Search
    from tailrace.training.measures.input_data import Rows
    from tailrace.training.runs.run_log import RunLog

__all__ = ["carry_out", "fit"]


def fit(  # noqa: PLR0913 - each is one thing that is left out, or wanted
    estimator: Any,
    X: Any,
    y: Any,
    *,
    validation: float | tuple[Any, Any] | None = None,
    cv: Any = None,
    metrics: Sequence[str] | str | Mapping[str, Callable[..., float]] | None = None,
    tracker: TrackerLike | None = None,
    register: str | None = None,
    run_name: str | None = None,
    log_model: bool = True,
    fit_params: Mapping[str, Any] | None = None,
    hpo: Mapping[str, Any] | None = None,
    seed: int | None = 0,
) -> TrainingResult:
    """Fits an estimator of scikit-learn, XGBoost or LightGBM, or one like them, and tracks all of it in one run.

    The run gets the estimator's parameters; its metrics (`train/accuracy`, `val/accuracy`); those of each fold
    (`cv/accuracy`, the fold as step) with `cv/accuracy_mean` and `cv/accuracy_std`; each round of a booster as it is
    done (`val/logloss_round`); how much each feature counts, as table and picture; and the model with its signature.

    Args:
        estimator: Fitted in place.
        X: Features, shape (rows, features): an array, a frame, a sparse matrix.
        y: Targets, shape (rows,): numbers or labels.
        validation: A share of the rows, chosen by chance, or other rows `(X, y)`. They are measured, and a booster can
            stop early by them.
        cv: Folds for a cross-validation beforehand: a number, one of scikit-learn's splitters, or pairs of indices.
        metrics: Names of scikit-learn's scorers (`accuracy`, `f1_macro`, `roc_auc`, `rmse`, …), or scorers by name; by
            default accuracy, F1 and ROC AUC, or R², RMSE and MAE.
        tracker: Takes everything; tailrace's own by default. Within an active run it is that one that is logged to.
        register: Registers the model as a new version under this name.
        run_name: Of the run; the estimator's class by default.
        log_model: False leaves the model out.
        fit_params: Passed to the estimator's `fit`: `sample_weight`, …
        hpo: Searches for parameters beforehand, by Optuna: `search_space`, `n_trials`, `cv_folds`, `metric`, …; see
            docs/estimators.md. Each trial is a run below that of the study, and so is the fit with the best of them.
        seed: Of the split, the folds, the search and the shuffling of features; None for other ones each time.

    Returns:
        What it has come to: metrics by short names (`val_accuracy`), `run_id`, `model_version`; of a search
        `best_params`, `parent_run_id` (the study's run) and `child_runs` (the trials').

    Raises:
        CallError: Data, metrics or parameters can never work; nothing was started.
        SettingsError: The same of what is searched.
        Exception: Whatever the estimator raises, as it is. The run is FAILED.

    Thread safety: from any thread; leave estimator and data alone meanwhile.

    Example:
        >>> result = fit(RandomForestClassifier(), X, y, validation=0.2, cv=5, register="digits")
        >>> result["val_accuracy"], result.model_version
        (0.97, '3')
    """
    plan = planned(estimator, X, y, validation=validation, cv=cv, metrics=metrics, fit_params=fit_params, seed=seed)
    search = planned_search(plan, hpo)
    tracker = default_tracker() if tracker is None else tracker
    return carry_out(plan, tracker, run_name=run_name, register=register, log_model=log_model, search=search)


def carry_out(
    plan: Plan,
    tracker: TrackerLike,
    *,
    run_name: str | None,
    register: str | None,
    log_model: bool = True,
    config: Mapping[str, Any] | None = None,
    search: Search | None = None,
) -> TrainingResult:
    """Does what is planned, in the active run or one of its own.

    Args:
        plan: What is done.
        tracker: Takes everything.
        run_name: Of the run; the estimator's class by default.
        register: Registers the model under this name.
        log_model: False leaves the model out.
        config: What the training was read from; kept with the run.
        search: Finds parameters beforehand; the run is then one below that of the study.

    Raises:
        Exception: Whatever the estimator raises.
    """
    name = run_name or type(plan.estimator).__name__
    best = None if search is None else search.run(tracker, name)
    if best is not None:
        plan.estimator.set_params(**best.best_params)
    with open_run(tracker, name, below=None if best is None else best.parent_run_id) as run:
        if config:
            run.log_config(config)
        run.log_params(params_of(plan))
        folds = {} if plan.folds is None else cross_validate(plan, plan.estimator, run.log)
        found = {**folds, **_fitted(plan, run)}
        _explain(plan, run, found)
        handle = _log_model(plan, run, register) if log_model else None
    return TrainingResult(
        run_id=run.mlflow_id,
        metrics={key.replace("/", "_"): value for key, value in found.items()},
        model_version=_version(handle, waits=register is not None),
        best_params=getattr(plan.estimator, "best_params_", {}) if best is None else best.best_params,
        parent_run_id=None if best is None else best.parent_run_id,
        child_runs=() if best is None else best.child_runs,
    )


def _fitted(plan: Plan, run: RunLog) -> dict[str, float]:
    """Fits, and measures the rows that it was fitted to, and those that were held back."""
    began = time.perf_counter()
    with round_logging(plan.estimator, plan.rows, plan.validation, run.log) as arguments:
        plan.estimator.fit(plan.rows.X, plan.rows.y, **{**plan.fit_params, **arguments})
    found = {"fit_seconds": time.perf_counter() - began}
    for prefix, rows in (("train", plan.rows), ("val", plan.validation)):
        if rows is not None:
            measured = scores(predict(plan.estimator, rows, plan.task), plan.metrics, f" for the {prefix} rows")
            found |= {f"{prefix}/{name}": value for name, value in measured.items()}
    run.log(found, step=0)
    return found


def _explain(plan: Plan, run: RunLog, found: Mapping[str, float]) -> None:
    """What counts for the first metric that could be measured."""
    prefix = "train" if plan.validation is None else "val"
    metric = next((each for each in plan.metrics if f"{prefix}/{each.name}" in found), None)
    if metric is None:
        return

    def loss(model: Any, rows: Rows) -> float:
        value = metric.of(predict(model, rows, plan.task).estimator, rows.X, rows.y)
        return -value if metric.greater_is_better else value

    try:
        importances = importances_of(plan.estimator, plan.validation or plan.rows, loss, plan.seed)
    except ValueError as error:  # the metric is not defined for these rows
        warn(f"importances are left out: {error}")
        return
    if importances is None:
        return
    columns = {"feature": importances.features, "importance": importances.values}
    run.log_table(columns, "importances/importances.csv")
    run.log_figure(draw_importances(importances), "importances/importances.png")


def _log_model(plan: Plan, run: RunLog, register: str | None) -> Any:
    return run.log_model(
        plan.estimator,
        input_example=_example(plan),
        register=register,
        flavor=booster_of(plan.estimator),
    )


def _example(plan: Plan) -> Any:
    """A small input, for the model's signature.

    MLflow takes pandas' categories for texts, and then refuses the categories themselves: a model that takes texts as
    well, such as a pipeline with an encoder, has them in its example.
    """
    rows = first_rows(plan.rows.X)
    plain = without_categories(rows)
    if plain is rows:
        return rows
    try:
        plan.estimator.predict(plain)
    except Exception:  # noqa: BLE001 - it wants categories, as boosters do, and says so in its own way
        return rows
    return plain


def _version(handle: Any, *, waits: bool) -> str | None:
    """The version that the model has become; waited for where one was requested."""
    if handle is None:
        return None
    if waits:
        handle.wait()
        if handle.error:
            warn(f"the model is not registered: {handle.error}")
    return handle.version or None
