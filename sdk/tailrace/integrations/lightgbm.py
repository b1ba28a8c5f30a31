"""LightGBM: `TailraceCallback` for `train`, `cv`, and the estimators. The first process logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace.integrations.framework_run import FrameworkRun
from tailrace.integrations.ranks import is_alone, is_first

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.protocol import TrackerLike

__all__ = ["TailraceCallback"]


class TailraceCallback:
    """Each round's evaluation as `<data>/<metric>`, and the parameters.

    Of a cross-validation the mean has that name, and `<data>/<metric>_std` is the deviation. Joins the active run, or
    begins one. That one ends with the last round; when LightGBM stops early, or raises, once the callback is gone.

    Args:
        run_name: The run's name, where it begins one.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        tags: Of a run that it begins.
        **settings: Of a run that it begins: `experiment_name`, `tracking_uri`, what `tailrace.start_run` takes.

    Raises:
        CallError: The tracker is none.

    Thread safety: called by LightGBM in the thread that trains.

    Example:
        >>> lightgbm.train(params, rows, valid_sets=[rows], callbacks=[TailraceCallback("baseline")])
    """

    order = 25
    """Before early stopping, which ends a round by an exception."""
    before_iteration = False

    def __init__(
        self,
        run_name: str | None = None,
        *,
        tracker: TrackerLike | Any = None,
        tags: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._models: list[Any] = []
        models = self._models
        self._framework = FrameworkRun(
            "lightgbm", tracker, run_name, tags, left=lambda: _ended_early(models), **settings
        )

    def __call__(self, env: Any) -> None:
        """A round is done."""
        if not is_first():
            return
        if env.iteration == env.begin_iteration:
            self._framework.begin().log_params(env.params)
            self._models[:] = [env.model]
        metrics = {}
        for data, metric, value, _, *deviation in env.evaluation_result_list or ():
            metrics[f"{data}/{metric}"] = value
            if deviation and deviation[0] is not None:
                metrics[f"{data}/{metric}_std"] = deviation[0]
        if metrics:
            self._framework.run.log(metrics, step=env.iteration)
        asked = is_alone() and self._framework.should_stop
        if asked or env.iteration == env.end_iteration - 1:
            self._framework.end()
        if asked:
            from lightgbm.callback import EarlyStopException  # loaded by now

            raise EarlyStopException(env.iteration, env.evaluation_result_list or [])


def _ended_early(models: list[Any]) -> str:
    """How a training ended that has not come to its last round: it was stopped, or something was raised."""
    return "FINISHED" if models and models[0].best_iteration > 0 else "FAILED"
