"""Metrics by name: scikit-learn's scorers, under the names that people know, and with the signs that they expect.

What this module promises:

* Every name of `sklearn.metrics.get_scorer_names()` is one here, and so is that of an error without its `neg_`: `rmse`
  and `log_loss` are positive, and smaller is better.
* `f1`, `precision`, `recall` and `jaccard` are those of the second class where there are two, whatever the labels are,
  and the mean over the classes where there are more. `roc_auc` is the mean over the classes that have rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import sklearn.metrics
from sklearn.metrics import get_scorer, get_scorer_names, make_scorer, roc_auc_score

from tailrace.training.nearest_name import advice
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Metric", "Task", "default_metrics", "metrics_of"]

Task = Literal["classification", "regression"]

_DEFAULT: Final[dict[Task, tuple[str, ...]]] = {
    "classification": ("accuracy", "f1_score", "roc_auc"),
    "regression": ("r2", "rmse", "mae"),
}
_SHORT: Final = {
    "f1_score": "f1",
    "precision_score": "precision",
    "recall_score": "recall",
    "jaccard_score": "jaccard",
    "accuracy_score": "accuracy",
    "balanced_accuracy_score": "balanced_accuracy",
    "average_precision_score": "average_precision",
    "roc_auc_score": "roc_auc",
    "auc": "roc_auc",
    "mcc": "matthews_corrcoef",
    "brier_score_loss": "neg_brier_score",
    "r2_score": "r2",
    "mse": "neg_mean_squared_error",
    "rmse": "neg_root_mean_squared_error",
    "mae": "neg_mean_absolute_error",
    "mape": "neg_mean_absolute_percentage_error",
    "msle": "neg_mean_squared_log_error",
    "rmsle": "neg_root_mean_squared_log_error",
}
_OF_THE_SECOND: Final = {
    "f1": "f1_score",
    "precision": "precision_score",
    "recall": "recall_score",
    "jaccard": "jaccard_score",
    "average_precision": "average_precision_score",
    "neg_brier_score": "brier_score_loss",
}
"""What is of one of two classes: scikit-learn's scorers take it to have the label 1."""
_OF_ALL: Final = {
    "neg_log_loss": "log_loss",
    "d2_log_loss_score": "d2_log_loss_score",
    "top_k_accuracy": "top_k_accuracy_score",
}
"""What wants to know all classes, also those that have no rows."""
_BY_SCORE: Final = ("roc_auc", "average_precision", "top_k_accuracy")
_BY_PROBABILITY: Final = ("roc_auc_ov", "neg_log_loss", "neg_brier_score", "d2_log_loss", "d2_brier")
_REGRESSION: Final = ("r2", "explained_variance", "neg_mean", "neg_root", "neg_max", "neg_median", "d2_absolute")


class Metric(NamedTuple):
    """A metric.

    Attributes:
        name: As it was named.
        scorer: The name of scikit-learn's scorer, or a scorer.
        sign: -1 where the scorer gives an error as a negative number.
    """

    name: str
    scorer: str | Callable[..., float]
    sign: int = 1

    @property
    def greater_is_better(self) -> bool:
        """Whether more is better."""
        return self.sign > 0

    @property
    def task(self) -> Task | None:
        """What it measures; None where that is not known."""
        if not isinstance(self.scorer, str):
            return None
        return "regression" if self.scorer.startswith(_REGRESSION) else "classification"

    @property
    def methods(self) -> tuple[str, ...]:
        """What a model must have one of, beside `predict`; empty where that is enough."""
        if not isinstance(self.scorer, str):
            return ()
        if self.scorer.startswith(_BY_PROBABILITY):
            return ("predict_proba",)
        return ("predict_proba", "decision_function") if self.scorer.startswith(_BY_SCORE) else ()

    def of(self, model: Any, X: Any, y: Any) -> float:
        """The metric of a fitted model.

        Raises:
            ValueError: It is not defined for what the model says of these rows.
        """
        if not isinstance(self.scorer, str):
            return float(self.scorer(model, X, y))
        if self.task == "regression":
            return self.sign * float(get_scorer(self.scorer)(model, X, y))
        classes = np.asarray(model.classes_)
        many = len(classes) > 2
        if self.scorer == "roc_auc" and many:
            ask = getattr(model, "predict_proba", None) or model.decision_function
            return _mean_roc_auc(ask(X), np.asarray(y), classes)
        return self.sign * float(self._scorer(classes)(model, X, y))

    def _scorer(self, classes: Any) -> Any:
        """scikit-learn's, for these classes."""
        assert isinstance(self.scorer, str)
        many, method = len(classes) > 2, self.methods or ("predict",)
        options: dict[str, Any] = {"response_method": method, "greater_is_better": not self.scorer.startswith("neg_")}
        if self.scorer in _OF_ALL:
            return make_scorer(getattr(sklearn.metrics, _OF_ALL[self.scorer]), labels=classes, **options)
        if self.scorer in _OF_THE_SECOND and not many:
            return make_scorer(getattr(sklearn.metrics, _OF_THE_SECOND[self.scorer]), pos_label=classes[-1], **options)
        mean = f"{self.scorer}_macro"
        return get_scorer(mean if many and mean in get_scorer_names() else self.scorer)


def _mean_roc_auc(scores: Any, y: Any, classes: Any) -> float:
    """One class against the others, of each class that has rows: scikit-learn's wants rows of all."""
    present = [at for at, label in enumerate(classes) if 0 < np.count_nonzero(y == label) < len(y)]
    if not present:
        raise ValueError("only one class has rows")
    return float(np.mean([roc_auc_score(y == classes[at], scores[:, at]) for at in present]))


def default_metrics(task: Task) -> tuple[str, ...]:
    """What is measured where nothing is named."""
    return _DEFAULT[task]


def metrics_of(names: Sequence[str] | str | Mapping[str, Any]) -> list[Metric]:
    """The metrics of these names.

    Args:
        names: Names; or scorers (`sklearn.metrics.make_scorer`) by name.

    Raises:
        CallError: There is no metric of that name; the nearest is named.

    Example:
        >>> metrics_of(["rmse"])[0].greater_is_better
        False
    """
    if isinstance(names, Mapping):
        wrong = [name for name, scorer in names.items() if not callable(scorer)]
        if wrong:
            raise CallError(f"metric {wrong[0]!r} is no scorer: pass one of sklearn.metrics.make_scorer(…)")
        return [Metric(str(name), scorer) for name, scorer in names.items()]
    return [_named(name) for name in ([names] if isinstance(names, str) else names)]


def _named(name: str) -> Metric:
    known = get_scorer_names()
    scorer = _SHORT.get(name, name)
    if name not in known and f"neg_{scorer}" in known:
        scorer = f"neg_{scorer}"
    if scorer not in known:
        errors = [each.removeprefix("neg_") for each in known]
        raise CallError(f"there is no metric {name!r}; {advice(str(name), {*errors, *_SHORT})}")
    return Metric(name, scorer, -1 if scorer.startswith("neg_") and not name.startswith("neg_") else 1)
