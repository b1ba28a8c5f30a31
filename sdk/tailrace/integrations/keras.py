"""Keras 3: `TailraceCallback` for `fit` and `evaluate`, whatever the backend. The first process logs."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tailrace.integrations import library
from tailrace.integrations.framework_run import FrameworkRun
from tailrace.integrations.ranks import is_alone, is_first
from tailrace.training.runs.run_log import warn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.protocol import TrackerLike

with library("keras"):
    from keras.callbacks import Callback

__all__ = ["TailraceCallback"]


class TailraceCallback(Callback):  # type: ignore[misc]  # Keras is not installed everywhere
    """What a model measures while it is fitted: by epoch as `loss` and `val_loss`, by batch as `batch/loss`.

    Joins the active run, or begins one that ends with the fit. What is evaluated after it is added to the same run, as
    `test_loss`. The optimizer's configuration becomes params. A fit whose run is asked to stop ends with the batch.

    Args:
        run_name: The run's name, where it begins one.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        every_batches: Logs each so-manieth batch; 0 logs none.
        tags: Of a run that it begins.
        **settings: Of a run that it begins: `experiment_name`, `tracking_uri`, what `tailrace.start_run` takes.

    Raises:
        CallError: The tracker is none.

    Thread safety: of batches Keras tells in several threads, where its backend allows that.

    Example:
        >>> model.fit(x, y, epochs=3, callbacks=[TailraceCallback("baseline", every_batches=10)])
    """

    async_safe = True
    """Keras does not wait for batches to be logged, where its backend allows that."""

    def __init__(
        self,
        run_name: str | None = None,
        *,
        tracker: TrackerLike | Any = None,
        every_batches: int = 0,
        tags: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self._framework = FrameworkRun("keras", tracker, run_name, tags, **settings)
        self._every, self._batches, self._epoch = every_batches, 0, 0
        # Of this epoch. They may come in another order, but not in a much other one.
        self._last_batches: deque[int] = deque(maxlen=64)
        self._first, self._fitting = True, False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """The fit begins."""
        del logs
        self._first, self._fitting, self._batches = is_first(), True, 0
        if not self._first:
            return
        known = {name: self.params.get(name) for name in ("epochs", "steps")}
        self._framework.begin().log_params({**known, **_about(self.model)})

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """One epoch begins; of a fit that goes on with an earlier one (`initial_epoch`) not the first."""
        del logs
        if not self._batches:
            self._batches = epoch * (self.params.get("steps") or 0)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """One batch is done."""
        self._last_batches.append(batch)
        step = self._batches + batch
        if self._every and self._first and logs and step % self._every == 0:
            self._framework.run.log({f"batch/{name}": value for name, value in logs.items()}, step=step)
        if is_alone() and self._framework.should_stop:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """One epoch is done."""
        self._epoch = epoch
        self._batches += max(self._last_batches, default=-1) + 1
        self._last_batches.clear()
        if self._first and logs:
            self._framework.run.log(logs, step=epoch)

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """An evaluation is done. Those of a fit come with its epochs."""
        if not self._fitting and logs and is_first():
            self._framework.run.log({f"test_{name}": value for name, value in logs.items()}, step=self._epoch)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """The fit is over."""
        del logs
        self._fitting = False
        self._framework.end()


def _about(model: Any) -> dict[str, Any]:
    """What a model says of itself; its own methods may raise, which is no reason to stop its training."""
    found: dict[str, Any] = {}
    try:
        if model.built:  # one that is built by its first batch has no parameters yet
            found["parameters"] = model.count_params()
        if getattr(model, "optimizer", None) is not None:
            found["optimizer"] = model.optimizer.get_config()
    except Exception as error:  # noqa: BLE001 - a program's own model and optimizer raise whatever they like
        warn(f"{type(model).__name__} is logged without all of its params: {error!r}")
    return found
