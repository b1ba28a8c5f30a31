"""Lightning: `TailraceLogger` for a `Trainer`, and for `Fabric`.

The first process logs; on all others the logger does nothing. Lightning itself makes floats of what `self.log` is given
before any logger sees it. A tensor on a GPU that is passed to `logger.log_metrics` or `logger.experiment.log` is not
waited for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tailrace.integrations import library
from tailrace.integrations.framework_run import FrameworkRun

if TYPE_CHECKING:
    import os

    from tailrace.protocol import TrackerLike

with library("lightning", "lightning", "lightning_fabric", "pytorch_lightning"):
    try:
        from lightning.fabric.utilities.rank_zero import rank_zero_only
        from lightning.pytorch.callbacks import Callback
        from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
    except ModuleNotFoundError:  # the older package of the same
        from lightning_fabric.utilities.rank_zero import rank_zero_only
        from pytorch_lightning.callbacks import Callback
        from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment

__all__ = ["TailraceLogger"]

_STATUSES: Final = {"success": "FINISHED", "finished": "FINISHED"}


class TailraceLogger(Logger):  # type: ignore[misc]  # Lightning is not installed everywhere
    """What a `Trainer` or `Fabric` logs, by tailrace.

    Joins the active run, or begins one when the first value comes. That one ends with the training: FINISHED, or FAILED
    with the error as tags. What is logged after that (`trainer.test`) is added to the same run. A fit whose run is
    asked to stop ends with the batch, in several processes with the epoch.

    Args:
        run_name: The run's name, where it begins one.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        prefix: Put before each metric's name, with a `/`.
        log_checkpoints: Whether checkpoints become artifacts in `checkpoints/`: with `True` those that there are at the
            end, with `"all"` each when it is saved.
        save_dir: Where Lightning puts what it saves; its own default directory by default.
        tags: Of a run that it begins.
        **settings: Of a run that it begins: `experiment_name`, `tracking_uri`, what `tailrace.start_run` takes.

    Raises:
        CallError: The tracker is none.

    Thread safety: as Lightning's own loggers; `log_metrics` from any thread.

    Example:
        >>> trainer = Trainer(logger=TailraceLogger("baseline"), max_epochs=3)
        >>> trainer.fit(model, loader)
    """

    def __init__(
        self,
        run_name: str | None = None,
        *,
        tracker: TrackerLike | Any = None,
        prefix: str = "",
        log_checkpoints: Literal[True, False, "all"] = False,
        save_dir: str | os.PathLike[str] | None = None,
        tags: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        # Fabric does not say when it is done; a trainer always does.
        self._framework = FrameworkRun("lightning", tracker, run_name, tags, left=lambda: "FINISHED", **settings)
        self._experiment_name = settings.get("experiment_name")
        self._prefix = f"{prefix}/" if prefix else ""
        self._log_checkpoints, self._save_dir = log_checkpoints, None if save_dir is None else str(save_dir)
        self._callback: Any = None
        self._logged: dict[str, float] = {}

    @property
    @rank_zero_experiment  # type: ignore[untyped-decorator]
    def experiment(self) -> Any:
        """The run, to log to it what Lightning has no call for. Elsewhere than in the first process it does nothing."""
        return self._framework.run

    @property
    def name(self) -> str:
        """The first directory of what Lightning saves: the experiment's name."""
        return str(self._experiment_name or "tailrace")

    @property
    def version(self) -> str | None:
        """The second one: tailrace's own id of the run, once it has begun."""
        return getattr(self._framework.run, "id", None) if rank_zero_only.rank == 0 else None

    @property
    def save_dir(self) -> str | None:
        """Where Lightning puts what it saves."""
        return self._save_dir

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Metrics of one step."""
        named = {self._prefix + name: value for name, value in metrics.items()} if self._prefix else metrics
        self._framework.run.log(named, step=step)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_hyperparams(self, params: Any = None, metrics: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Hyper-parameters, nested or not, as params; and metrics that belong to them."""
        named = dict(params if isinstance(params, Mapping) else vars(params)) if params else {}
        if named or more:
            self._framework.run.log_params({**named, **more})
        if metrics:
            self.log_metrics(metrics, step=0)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """A trainer begins; no graph is logged, but the run's stop button holds for it from now on."""
        del input_array
        # In every process: several of them have to decide together.
        trainer = getattr(model, "_trainer", None)  # its property raises where there is none
        if trainer is not None and not any(isinstance(each, _StopButton) for each in trainer.callbacks):
            trainer.callbacks.append(_StopButton(self._framework))

    @rank_zero_only  # type: ignore[untyped-decorator]
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Lightning has saved a checkpoint."""
        self._callback = checkpoint_callback
        if self._log_checkpoints == "all":
            self._upload_checkpoints()

    @rank_zero_only  # type: ignore[untyped-decorator]
    def finalize(self, status: str) -> None:
        """Lightning is done, or has failed."""
        if self._log_checkpoints:
            self._upload_checkpoints()
        # Lightning calls this while it handles the error, and hands over no more than a word.
        error = None if status in _STATUSES else sys.exc_info()[1]
        self._framework.end(_STATUSES.get(status, "FAILED"), error)

    def _upload_checkpoints(self) -> None:
        callback = self._callback
        if callback is None:
            return
        names = {*callback.best_k_models, callback.best_model_path, callback.last_model_path}
        for name in sorted(names - {""}):
            path = Path(name)
            # One that has been written anew since it was logged is logged anew.
            if path.exists() and self._logged.get(name) != (written := path.stat().st_mtime):
                self._logged[name] = written
                self._framework.run.log_artifact(path, "checkpoints")


class _StopButton(Callback):  # type: ignore[misc]  # Lightning is not installed everywhere
    """Ends a fit whose run somebody has asked to stop, as Lightning's early stopping does."""

    def __init__(self, framework: FrameworkRun) -> None:
        self._framework = framework

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        if trainer.world_size == 1 and self._framework.should_stop:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        # Only the first one hears of it. All have to end with the same epoch, or they would wait for one another.
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self._framework.should_stop, all=False):
            trainer.should_stop = True
