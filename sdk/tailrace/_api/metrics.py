"""The metric calls of a run: `log` and its kin."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from tailrace._log.faults import shown
from tailrace._log.observers import Observer
from tailrace._runs.run_part import RunPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["LAST_TIMESTAMP", "MetricCalls"]

LAST_TIMESTAMP: Final = (2**63 - 1) // 1_000_000
"""In milliseconds since the epoch, in the year 2262: rows carry nanoseconds, in a signed 64-bit word."""


class MetricCalls(RunPart):
    """`log`, `log_metric`, `log_metrics`. A base of `Run`."""

    def log(
        self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, *others: Any, **values: Any
    ) -> None:
        """Logs metrics of one training step of this run, in about a microsecond.

        Args:
            metrics: Metrics by name, for names that are no Python identifiers; nested ones become `train/loss`.
            step: Training step; without it, the run's own counter of calls without a step: 0, 1, 2, …
            *others: Not for use: what other trackers take there is said to be wrong, and stops nobody.
            **values: Metrics as keywords. Numbers of any kind: float, int, bool, NumPy scalars, tensors with one
                element.

        Raises:
            CallError: Under `strict=True`: a value is no number, or the step no integer.

        Example:
            >>> run.log({"train/loss": 0.25}, step=7)
            >>> run.log({"train": {"loss": 0.25}}, 7)
        """
        raise NotImplementedError("replaced in __init__")

    def log_metric(self, key: str, value: Any, step: int | None = None, timestamp: int | None = None) -> None:
        """Logs one metric, as MLflow's function does: step 0 when none is given.

        Args:
            key: Name.
            value: A number, as in `log`.
            step: Training step; 0 when None.
            timestamp: Milliseconds since the epoch; now by default.

        Raises:
            CallError: Under `strict=True`: a value is no number, or the step no integer.

        Example:
            >>> run.log_metric("loss", 0.25, step=7)
        """
        self.log_metrics({key: value}, step, timestamp)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None, timestamp: int | None = None) -> None:
        """Logs several metrics at one step, as MLflow's function does: step 0 when none is given.

        Args:
            metrics: Numbers by name.
            step: Training step; 0 when None.
            timestamp: Milliseconds since the epoch; now by default.

        Raises:
            CallError: Under `strict=True`: a value is no number, or the step no integer.

        Example:
            >>> run.log_metrics({"train/loss": 0.25, "train/accuracy": 0.9}, step=7)
        """
        step = 0 if step is None else step
        # A run of which only the last values are kept has no times.
        if timestamp is None or self._core.latest is not None:
            self._log(metrics, step=step)
        else:
            self._log_at(metrics, step, self._as_time(timestamp))

    def observe(self, names: str | Iterable[str], callback: Callable[[int, dict[str, float]], object]) -> None:
        """Calls a function after each `log()` of this run that holds one of some metrics.

        It is called in the thread that logs, when the values are logged. What it raises comes out of that `log()`
        call: that is how a search stops a trial. A value on a GPU is waited for. `log()` costs some microseconds more.

        Args:
            names: One name, or several; metrics in a mapping have those that they have in MLflow (`val/loss`).
            callback: Called with the step, and with those of the metrics that the call held, as floats by name.

        Raises:
            CallError: Under `strict=True`: the run is over, or another process has begun it.

        Thread safety: from any thread. Forked children log, and call nobody.

        Example:
            >>> run.observe("val_loss", lambda step, values: print(step, values["val_loss"]))
            >>> run.log(step=3, val_loss=0.25)
            3 0.25
        """
        self._core.observe(Observer([names] if isinstance(names, str) else names, callback))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _log(self, metrics: Mapping[str, Any] | None, *, step: int | None) -> None:
        self.__dict__["log"](metrics, step=step)

    def _log_at(self, metrics: Mapping[str, Any], step: int, time_ns: int) -> None:
        """Logs with a time that is not now."""
        channel = self._core.channel
        try:
            assert channel.encode is not None
            row = channel.encode((channel.run, step, time_ns, {**metrics}))
        except Exception as error:  # noqa: BLE001 - as in the hot path
            # Not `timed`: from a time of its own no cost of the call can be told.
            self._core.slow_path.take({}, metrics, step, time_ns, error)
            return
        channel.put(row)

    def _as_time(self, timestamp: Any) -> int:
        """Nanoseconds from MLflow's milliseconds; now, with a warning, from what cannot be any."""
        try:
            milliseconds = int(timestamp)
        except (TypeError, ValueError, OverflowError):
            milliseconds = -1
        if not 0 <= milliseconds <= LAST_TIMESTAMP:
            self._core.fault(
                f"timestamp {shown(timestamp)} is no time in milliseconds since the epoch; taken as now",
                once=("timestamp", self._core.spec.run),
            )
            return time.time_ns()
        return milliseconds * 1_000_000
