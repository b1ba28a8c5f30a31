"""CatBoost: `TailraceCallback` for `fit(callbacks=…)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace.integrations.framework_run import FrameworkRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.protocol import TrackerLike

__all__ = ["TailraceCallback"]


class TailraceCallback:
    """Each round's evaluation as `<data>/<metric>`: `learn/Logloss`, `validation/Logloss`.

    Joins the active run, or begins one. CatBoost says neither when a training ends nor how: a run that the callback has
    begun ends once the callback is gone, as FINISHED. With `tailrace.start_run()` around the fit it also ends FAILED.

    Args:
        run_name: The run's name, where it begins one.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        tags: Of a run that it begins.
        **settings: Of a run that it begins: `experiment_name`, `tracking_uri`, what `tailrace.start_run` takes.

    Raises:
        CallError: The tracker is none.

    Thread safety: called by CatBoost in the thread that trains.

    Example:
        >>> with tailrace.start_run(run_name="baseline"):
        ...     CatBoostClassifier().fit(X, y, eval_set=(X_val, y_val), callbacks=[TailraceCallback()])
    """

    def __init__(
        self,
        run_name: str | None = None,
        *,
        tracker: TrackerLike | Any = None,
        tags: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._framework = FrameworkRun("catboost", tracker, run_name, tags, left=lambda: "FINISHED", **settings)

    def after_iteration(self, info: Any) -> bool:
        """A round is done; whether to go on."""
        run = self._framework.begin() if info.iteration == 1 else self._framework.run
        metrics = {
            f"{data}/{metric}": values[-1]
            for data, measured in (info.metrics or {}).items()
            for metric, values in measured.items()
            if values
        }
        if metrics:
            run.log(metrics, step=info.iteration)
        return True
