"""`Evaluator`: a fitted model is measured on rows, and all of it is kept in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tailrace.protocol import ReadsRuns
from tailrace.training.evaluation.class_curves import calibration, precision_recall, roc, scored_classes
from tailrace.training.evaluation.class_tables import confusion, draw_confusion, per_class
from tailrace.training.evaluation.comparison import Difference, compared
from tailrace.training.evaluation.residuals import draw_residuals, residuals
from tailrace.training.evaluation.stored_models import is_model_uri, load
from tailrace.training.measures.input_data import checked_rows
from tailrace.training.measures.metric_names import default_metrics, metrics_of
from tailrace.training.measures.predictions import can_measure, predict, scores, task_of
from tailrace.training.runs.run_log import default_tracker, open_run
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tailrace.protocol import TrackerLike
    from tailrace.training.measures.input_data import Rows
    from tailrace.training.measures.metric_names import Metric, Task
    from tailrace.training.measures.predictions import Predictions
    from tailrace.training.runs.run_log import RunLog

__all__ = ["EvaluationResult", "Evaluator"]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult(Mapping[str, float]):
    """What an evaluation has found; also a mapping, of its metrics.

    Attributes:
        metrics: By name, without the prefix that they have in the run.
        per_class: Of each class precision, recall, F1, ROC AUC and the number of rows; empty for regression.
        comparison: The metrics that the baseline has, too.
        run_id: MLflow's id of the run that has it all; None while MLflow has not created it, and with tracking off.

    Example:
        >>> result.metrics["accuracy"], result.per_class["7"]["recall"], [each.verdict for each in result.comparison]
        (0.97, 0.94, ['better', 'equal'])
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    comparison: tuple[Difference, ...] = ()
    run_id: str | None = None

    def __getitem__(self, key: str) -> float:
        return self.metrics[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)


class Evaluator:
    """Measures fitted models, in scikit-learn's terms, and keeps what it finds: metrics, tables and figures.

    Args:
        metrics: Names of scikit-learn's scorers (`accuracy`, `f1_macro`, `rmse`, …), or scorers by name; by default
            `accuracy`, `f1_score` and `roc_auc`, or for regression `r2`, `rmse` and `mae`.
        task: `classification` or `regression`, where neither the model nor the targets say so.
        name: What the metrics begin with (`eval/accuracy`), and the folder of tables and figures.
        figures: False leaves the figures out.
        tracker: Takes everything; tailrace's own by default.

    Raises:
        CallError: There is no such metric; the nearest is named.

    Thread safety: every method from any thread.

    Example:
        >>> evaluator = Evaluator(metrics=("accuracy", "f1_macro"), name="test")
        >>> evaluator.evaluate("models:/digits@champion", X_test, y_test)["accuracy"]
        0.97
    """

    def __init__(
        self,
        metrics: Sequence[str] | str | Mapping[str, Callable[..., float]] | None = None,
        *,
        task: Task | None = None,
        name: str = "eval",
        figures: bool = True,
        tracker: TrackerLike | None = None,
    ) -> None:
        if task not in (None, "classification", "regression"):
            raise CallError(f"task is {task!r}; allowed: 'classification', 'regression'")
        self._metrics = None if metrics is None else metrics_of(metrics)
        self._task, self._name, self._figures = task, name, figures
        self._tracker = default_tracker() if tracker is None else tracker

    def evaluate(
        self,
        model: Any,
        X: Any,
        y: Any,
        *,
        baseline: Any = None,
        run_id: str | None = None,
        run_name: str | None = None,
    ) -> EvaluationResult:
        """Measures a model on some rows.

        It is logged to the active run; where none is, to the run that the model of a URI comes from; else to a new one.

        Args:
            model: A fitted estimator, anything that has `predict(X)`, or the URI of a model: `models:/digits@champion`,
                `runs:/0f6a/model`.
            X: Features, shape (rows, features).
            y: Targets, shape (rows,).
            baseline: A model as above, which is measured on the same rows; or a run (its id or name) that has been
                evaluated under the same name.
            run_id: MLflow's id of the run to log to.
            run_name: Of a new run; `evaluation` by default.

        Returns:
            Metrics, the table of classes, and the comparison.

        Raises:
            CallError: Model, data or metrics can never work; nothing was logged.
            NotFound: There is no such model or run.

        Example:
            >>> result = Evaluator().evaluate(model, X_test, y_test, baseline="models:/digits@champion")
            >>> str(result.comparison[0])
            'accuracy 0.97 against 0.95 (+0.02): better'
        """
        rows = checked_rows(X, y)
        own_run: str | None = None
        if is_model_uri(model):
            model, own_run = load(model, self._tracker)
        task = self._task or task_of(model, rows.y)
        metrics = self._measured(model, task)
        predictions = predict(model, rows, task)
        values = scores(predictions, metrics)
        other = {} if baseline is None else self._baseline(baseline, rows, task, metrics)
        comparison = compared(metrics, values, other)
        classes = per_class(predictions) if task == "classification" else {}
        with open_run(self._tracker, run_name or "evaluation", run_id=run_id, otherwise=own_run) as run:
            run.log({f"{self._name}/{key}": value for key, value in values.items()})
            self._log_comparison(run, comparison)
            self._log_classes(run, predictions, classes) if classes else self._log_numbers(run, predictions)
        return EvaluationResult(metrics=values, per_class=classes, comparison=comparison, run_id=run.mlflow_id())

    # -- inside ------------------------------------------------------------------------------------------------------

    def _measured(self, model: Any, task: Task) -> list[Metric]:
        metrics = metrics_of(default_metrics(task)) if self._metrics is None else self._metrics
        reasons = {metric.name: reason for metric in metrics if (reason := can_measure(metric, model, task))}
        if reasons and self._metrics is not None:
            raise CallError("; ".join(reasons.values()))
        return [metric for metric in metrics if metric.name not in reasons]

    def _baseline(self, baseline: Any, rows: Rows, task: Task, metrics: Sequence[Metric]) -> dict[str, float]:
        """The metrics of the other model, measured now, or as its run has them."""
        if is_model_uri(baseline):
            baseline, _ = load(baseline, self._tracker)
        if not isinstance(baseline, str):
            possible = [metric for metric in metrics if can_measure(metric, baseline, task) is None]
            return scores(predict(baseline, rows, task), possible, " for the baseline")
        if not isinstance(self._tracker, ReadsRuns):
            raise CallError(
                f"{type(self._tracker).__name__} has no get_run_info(): pass the baseline's model, not its run"
            )
        found = self._tracker.get_run_info(baseline).metrics
        named = {metric.name: f"{self._name}/{metric.name}" for metric in metrics}
        if not any(key in found for key in named.values()):
            raise CallError(f"run {baseline!r} has none of {', '.join(named.values())}: evaluate its model first")
        return {name: float(found[key]) for name, key in named.items() if key in found}

    def _log_comparison(self, run: RunLog, comparison: Sequence[Difference]) -> None:
        if not comparison:
            return
        run.log({f"{self._name}/{each.metric}_difference": each.difference for each in comparison})
        columns: dict[str, list[Any]] = {
            "metric": [each.metric for each in comparison],
            "value": [each.value for each in comparison],
            "baseline": [each.baseline for each in comparison],
            "difference": [each.difference for each in comparison],
            "verdict": [each.verdict for each in comparison],
        }
        run.log_table(columns, f"{self._name}/comparison.csv")

    def _log_classes(self, run: RunLog, predictions: Predictions, classes: Mapping[str, Mapping[str, float]]) -> None:
        names = dict.fromkeys(name for row in classes.values() for name in row)
        rows: dict[str, list[Any]] = {name: [row.get(name) for row in classes.values()] for name in names}
        run.log_table({"class": list(classes), **rows}, f"{self._name}/per_class.csv")
        labels, counts = confusion(predictions)
        across = {f"predicted {label}": counts[:, at].tolist() for at, label in enumerate(labels)}
        run.log_table({"class": [str(label) for label in labels], **across}, f"{self._name}/confusion_matrix.csv")
        if self._figures:
            run.log_figure(draw_confusion(labels, counts), f"{self._name}/confusion_matrix.png")
        scored = scored_classes(predictions)
        curves: dict[str, Any] = {"roc": roc, "precision_recall": precision_recall}
        if predictions.probabilities is not None:
            curves["calibration"] = calibration
        for name, curve in curves.items() if scored else ():
            columns, figure = curve(scored)
            run.log_table(columns, f"{self._name}/{name}.csv")
            if self._figures:
                run.log_figure(figure, f"{self._name}/{name}.png")

    def _log_numbers(self, run: RunLog, predictions: Predictions) -> None:
        run.log_table(residuals(predictions), f"{self._name}/residuals.csv")
        if self._figures:
            run.log_figure(draw_residuals(predictions), f"{self._name}/residuals.png")
