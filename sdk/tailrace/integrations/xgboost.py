"""XGBoost: `TailraceCallback` for `train`, `cv`, and the estimators. Of several workers the first logs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tailrace.integrations import library
from tailrace.integrations.framework_run import FrameworkRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tailrace.protocol import TrackerLike

with library("xgboost"):
    from xgboost import collective
    from xgboost.callback import TrainingCallback

__all__ = ["TailraceCallback"]


class TailraceCallback(TrainingCallback):  # type: ignore[misc]  # XGBoost is not installed everywhere
    """Each round's evaluation as `<data>/<metric>`, the booster's parameters, and the best round.

    Of a cross-validation the mean has that name, and `<data>/<metric>_std` is the deviation. Joins the active run, or
    begins one that ends with the training.

    Args:
        run_name: The run's name, where it begins one.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        log_params: Whether the booster's parameters become params.
        tags: Of a run that it begins.
        **settings: Of a run that it begins: `experiment_name`, `tracking_uri`, what `tailrace.start_run` takes.

    Raises:
        CallError: The tracker is none.

    Thread safety: called by XGBoost in the thread that trains.

    Example:
        >>> xgboost.train(params, rows, evals=[(rows, "train")], callbacks=[TailraceCallback("baseline")])
    """

    def __init__(
        self,
        run_name: str | None = None,
        *,
        tracker: TrackerLike | Any = None,
        log_params: bool = True,
        tags: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self._framework = FrameworkRun("xgboost", tracker, run_name, tags, **settings)
        self._log_params, self._first = log_params, True

    def before_training(self, model: Any) -> Any:
        """The training begins."""
        self._first = collective.get_rank() == 0
        if self._first:
            run = self._framework.begin()
            if self._log_params:
                booster = model.cvfolds[0].bst if hasattr(model, "cvfolds") else model
                run.log_params(dict(_trained_by(json.loads(booster.save_config())["learner"])))
        return model

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """A round is done."""
        del model
        if self._first:
            self._framework.run.log(dict(_last(evals_log)), step=epoch)
        # Of several processes each would have to know of it at the same round.
        return collective.get_world_size() == 1 and self._framework.should_stop

    def after_training(self, model: Any) -> Any:
        """The training is over."""
        if self._first:
            best = None if hasattr(model, "cvfolds") else model.attr("best_iteration")
            if best is not None:
                named = {"best_iteration": int(best), "best_score": float(model.attr("best_score"))}
                self._framework.run.log(named, step=int(best))
            self._framework.end()
        return model


def _last(evaluations: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """The newest values, by name."""
    for data, metrics in evaluations.items():
        for metric, values in metrics.items():
            value = values[-1]
            if isinstance(value, tuple):  # of a cross-validation
                yield f"{data}/{metric}_std", value[1]
                value = value[0]
            yield f"{data}/{metric}", value


def _trained_by(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parameters of training, which stand in several places of a configuration."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from value.items() if name.endswith("train_param") else _trained_by(value)
