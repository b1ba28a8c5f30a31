"""A search for the best parameters of an estimator, before it is fitted with them.

Each trial is a run of its own below that of the study, by `tailrace.hpo`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from sklearn.base import clone

from tailrace.training.config_tables import read_struct
from tailrace.training.estimators.boosting_rounds import booster_of, round_logging
from tailrace.training.estimators.cross_validation import cross_validate
from tailrace.training.estimators.plan import Plan, folds_of
from tailrace.training.measures.predictions import predict, scores
from tailrace.training.nearest_name import advice
from tailrace_agent.errors import SettingsError, TailraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailrace.protocol import TrackerLike
    from tailrace.training.measures.metric_names import Metric

__all__ = ["Search", "SearchOptions", "planned_search"]

_FOLDS: Final = 3


class SearchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How parameters are searched for: `hpo=` of `fit`, and `hyperparameter_optimization:` of a configuration.

    Attributes:
        search_space: Parameters with their ranges, or a function of the trial; see `tailrace.hpo.OptunaRunner`.
        n_trials: Trials in all, those of an earlier search under this name included.
        cv_folds: Folds by which each trial is measured; by default the validation rows are, or where there are none
            three folds.
        metric: What is optimized; the first of the metrics by default.
        direction: By default what is better of the metric.
        timeout: Seconds after which no trial begins.
        study_name: Of the study and its run; by default the run's name.
        storage: Where the study is kept; in memory by default.
        sampler, pruner: Optuna's, by name or with arguments.
        prune_on: A metric that trials log, by which they are pruned: `cv/accuracy`, `val/logloss_round`.
        n_jobs: Trials at a time, in threads.
        seed: Of the sampler; the fit's by default.
        method: `optuna`.
        enabled: False: nothing is searched.
    """

    search_space: Any
    n_trials: int = 20
    cv_folds: int | None = None
    metric: str | None = None
    direction: Literal["maximize", "minimize"] | None = None
    timeout: float | None = None
    study_name: str | None = None
    storage: Any = None
    sampler: Any = None
    pruner: Any = None
    prune_on: str | None = None
    n_jobs: int = 1
    seed: int | None = None
    method: Literal["optuna"] = "optuna"
    enabled: bool = True


def planned_search(plan: Plan, options: Mapping[str, Any] | None, place: str = "hpo") -> Search | None:
    """Checks what is to be searched; None where nothing is.

    Args:
        plan: What is fitted with the best parameters.
        options: As `SearchOptions` has them.
        place: How to call them in a message.

    Raises:
        SettingsError: Something of it can never work.
    """
    if options is None:
        return None
    wanted = read_struct(options, SearchOptions, place)
    if not wanted.enabled:
        return None
    if not hasattr(plan.estimator, "set_params"):
        raise SettingsError(f"{place}: {type(plan.estimator).__name__} has no set_params(), so nothing can be searched")
    _check_parameters(plan.estimator, wanted.search_space, f"{place}.search_space")
    metric = _metric(plan, wanted, place)
    better: Literal["maximize", "minimize"] = "maximize" if metric.greater_is_better else "minimize"
    if wanted.direction not in (None, better):
        raise SettingsError(f"{place}.direction is {wanted.direction}, and of {metric.name} it should be {better}")
    if wanted.cv_folds is not None or plan.validation is None:
        folds = folds_of(wanted.cv_folds or _FOLDS, plan.rows, plan.task)
    else:
        folds = None
    return Search(plan._replace(folds=folds), wanted, metric, better)


def _check_parameters(estimator: Any, space: Any, place: str) -> None:
    if not isinstance(space, dict) or booster_of(estimator) is not None:  # boosters take more than they list
        return
    known = estimator.get_params()
    for name in space:
        if name not in known:
            kind = type(estimator).__name__
            raise SettingsError(f"{place}.{name} is no parameter of {kind}; {advice(str(name), known)}")


def _metric(plan: Plan, wanted: SearchOptions, place: str) -> Metric:
    names = {metric.name: metric for metric in plan.metrics}
    if wanted.metric is None:
        return plan.metrics[0]
    name = wanted.metric.removeprefix("val_").removeprefix("val/").removeprefix("cv_").removeprefix("cv/")
    if name not in names:
        raise SettingsError(f"{place}.metric is {wanted.metric!r}, which is not measured; {advice(name, names)}")
    return names[name]


class Search:
    """A search that can begin.

    Args:
        plan: Rows, metrics, and the folds by which trials are measured, if it is by any.
        options: How it is searched.
        metric: What is optimized.
        direction: Which way.
    """

    def __init__(self, plan: Plan, options: SearchOptions, metric: Metric, direction: str) -> None:
        self._plan, self._options, self._metric, self._direction = plan, options, metric, direction

    @property
    def metric(self) -> str:
        """The name of what is optimized, as trials return it."""
        return f"val_{self._metric.name}"

    def run(self, tracker: TrackerLike, run_name: str) -> Any:
        """Searches.

        Args:
            tracker: Takes everything.
            run_name: Of the study, where it has no name of its own.

        Returns:
            An `HpoResult` with `best_params`.

        Raises:
            TailraceError: No trial was completed.
            Exception: Whatever the estimator raises.
        """
        from tailrace.hpo import OptunaRunner

        options = self._options
        runner = OptunaRunner(
            options.study_name or run_name,
            self._direction,
            self.metric,
            storage=options.storage,
            sampler=options.sampler,
            pruner=options.pruner,
            seed=self._plan.seed if options.seed is None else options.seed,
            prune_on=options.prune_on,
            tracker=tracker,
        )
        result = runner.optimize(
            lambda _, params: self._trial(tracker, params),
            options.n_trials,
            options.search_space,
            n_jobs=options.n_jobs,
            timeout=options.timeout,
        )
        if not result.best_params:
            raise TailraceError(f"no trial of study {runner.study_name!r} was completed: there is nothing to fit with")
        return result

    def _trial(self, tracker: TrackerLike, params: Mapping[str, Any]) -> dict[str, float]:
        """One set of parameters, in the run of its trial."""
        plan = self._plan
        estimator = clone(plan.estimator).set_params(**params)

        def log(metrics: Mapping[str, float], step: int | None = None) -> None:
            if metrics:
                tracker.log(metrics, step=step)

        if plan.folds is not None:
            summary = cross_validate(plan, estimator, log)
            return {f"val_{each.name}": summary.get(f"cv/{each.name}_mean", float("nan")) for each in plan.metrics}
        return self._validated(plan, estimator, log)

    def _validated(self, plan: Plan, estimator: Any, log: Callable[..., None]) -> dict[str, float]:
        assert plan.validation is not None
        with round_logging(estimator, plan.rows, plan.validation, log) as arguments:
            estimator.fit(plan.rows.X, plan.rows.y, **{**plan.fit_params, **arguments})
        measured = scores(predict(estimator, plan.validation, plan.task), plan.metrics)
        log({f"val/{name}": value for name, value in measured.items()}, 0)
        return {f"val_{name}": value for name, value in measured.items()}
