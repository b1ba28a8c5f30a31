"""scikit-learn: `TailraceScorer` for cross-validations and searches, `TailraceCallback` for fits (scikit-learn 1.9 on).

A whole fit with folds, importances and the model takes `tailrace.training.fit`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tailrace.integrations import library
from tailrace.integrations.framework_run import FrameworkRun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailrace.protocol import TrackerLike

with library("scikit-learn", "sklearn"):
    from sklearn.metrics import check_scoring, get_scorer

__all__ = ["TailraceCallback", "TailraceScorer", "log_search"]


class TailraceScorer:
    """A scorer whose values are logged, one for each estimator that it scores, also in worker processes.

    Joins the active run, or begins one, at once. That one ends, FINISHED, once the scorer is gone.

    Args:
        scoring: A scorer's name (`accuracy`), or a scorer.
        name: What the metric is called; `cv/<name>` of a scorer with a name by default.
        tracker: A tracker, or a run; tailrace's own tracker by default.

    Raises:
        CallError: The tracker is none.
        ValueError: There is no such scorer.

    Thread safety: any thread.

    Example:
        >>> with tailrace.start_run():
        ...     cross_validate(model, X, y, scoring=TailraceScorer("accuracy"), n_jobs=2)
    """

    def __init__(
        self, scoring: str | Callable[..., float], name: str | None = None, *, tracker: TrackerLike | Any = None
    ) -> None:
        known = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
        self._scorer, self._name = get_scorer(scoring), name or f"cv/{known}"
        # None: of several metrics there is a scorer for each, in one run.
        self._framework = FrameworkRun(None, tracker, left=lambda: "FINISHED")
        self._framework.begin()  # before a worker gets a copy

    def __call__(self, estimator: Any, X: Any, y: Any = None, **arguments: Any) -> float:
        """Scores an estimator, and logs that."""
        value: float = self._scorer(estimator, X, y, **arguments)
        self._framework.run.log({self._name: value})
        return value


class TailraceCallback:
    """What an estimator of scikit-learn 1.9 on does while it is fitted; set by `estimator.set_callbacks`.

    Its parameters; with `scoring` the training score after each iteration, as `fit/<name>`; of a search all candidates
    as a table, and the best. Joins the active run, or begins one that ends with the fit.

    Args:
        run_name: The run's name, where it begins one; the estimator's class by default.
        scoring: A scorer's name, or a scorer.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        tags: Of a run that it begins.
        **settings: Of a run that it begins: `experiment_name`, `tracking_uri`, what `tailrace.start_run` takes.

    Raises:
        CallError: The tracker is none.

    Thread safety: called by scikit-learn in the thread of the fit.

    Example:
        >>> model = LogisticRegression().set_callbacks(TailraceCallback(scoring="accuracy"))
        >>> model.fit(X, y)
    """

    def __init__(
        self,
        run_name: str | None = None,
        *,
        scoring: str | Callable[..., float] | None = None,
        tracker: TrackerLike | Any = None,
        tags: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._framework = FrameworkRun("scikit-learn", tracker, run_name, tags, **settings)
        self._scoring = scoring
        self._scorer: Any = None
        self._name = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
        self._before: BaseException | None = None

    def setup(self, estimator: Any, context: Any) -> None:
        """The fit begins."""
        del context
        self._before = sys.exc_info()[1]
        if self._scoring is not None:
            self._scorer = check_scoring(estimator, scoring=self._scoring)
        name = type(estimator).__name__
        self._framework.begin(name).log_params({"estimator": name, **estimator.get_params()})

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """A part of it begins."""

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, y: Any = None, fitted_estimator: Any = None
    ) -> None:
        """A part of it is done."""
        del estimator
        # Of its iterations alone; the whole has no parent.
        if self._scorer is None or context.parent is None or fitted_estimator is None or X is None or y is None:
            return
        self._framework.run.log({f"fit/{self._name}": self._scorer(fitted_estimator, X, y)}, step=context.task_id)

    def teardown(self, estimator: Any, context: Any) -> None:
        """The fit is over, or has failed."""
        del context
        error = sys.exc_info()[1]
        error = None if error is self._before else error
        if error is None and hasattr(estimator, "cv_results_"):
            log_search(estimator, self._framework)
        self._framework.end(error=error)


def log_search(search: Any, tracker: TrackerLike | Any = None) -> None:
    """Logs what a fitted search has found: `search/best_score`, its parameters as `best.*`, all candidates as a table.

    Args:
        search: A fitted `GridSearchCV`, or another of its kind.
        tracker: A tracker, or a run; tailrace's own tracker by default.

    Raises:
        CallError: The tracker is none.

    Example:
        >>> log_search(GridSearchCV(model, {"C": [0.1, 1.0]}).fit(X, y))
    """
    framework = tracker if isinstance(tracker, FrameworkRun) else FrameworkRun(None, tracker)
    # `tolist`: where a candidate has not a parameter, None.
    results = {name: values.tolist() for name, values in search.cv_results_.items() if name != "params"}
    framework.run.log({"search/candidates": len(search.cv_results_["params"])}, step=0)
    if hasattr(search, "best_score_"):
        framework.run.log({"search/best_score": search.best_score_, "search/best_index": search.best_index_}, step=0)
    if hasattr(search, "best_params_"):
        framework.run.log_params({"best": search.best_params_})
    framework.call("log_dataframe", results, "search/candidates.csv", "csv")
    if framework is not tracker:
        framework.end()
