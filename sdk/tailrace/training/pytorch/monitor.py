"""The metric that a training is judged by: which epoch was the best, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

from tailrace_agent.errors import CallError
from tailrace_agent.text.directions import direction_by_name

__all__ = ["Monitor"]


@dataclass
class Monitor:
    """Which epoch was the best by a metric, and whether to go on.

    Args:
        metric: Its name, as in `val_loss`.
        mode: `min`, `max`, or `auto`: by the name (an accuracy, an F1 score or the like is better when larger).
        patience: Epochs without an improvement after which training stops; None: never.
        min_delta: What counts as an improvement, in the metric's own unit.

    Attributes:
        best: The best value so far.
        best_epoch: Its epoch, from 1 on; 0: there was none yet.
        stale: Epochs since then.

    Raises:
        CallError: The mode, the patience or `min_delta` can never work, or the name says nothing of what is better.

    Example:
        >>> monitor = Monitor("val_loss", patience=2)
        >>> [monitor.improved(epoch, loss) for epoch, loss in enumerate((0.5, 0.3, 0.4, 0.3), start=1)]
        [True, True, False, False]
        >>> monitor.exhausted
        True
    """

    metric: str
    mode: str = "auto"
    patience: int | None = None
    min_delta: float = 0.0
    best: float = math.nan
    best_epoch: int = 0
    stale: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "min", "max"):
            raise CallError(f"mode is {self.mode!r}; it is 'min', 'max' or 'auto'")
        patience: Any = self.patience
        min_delta: Any = self.min_delta
        if patience is not None and (not hasattr(patience, "__index__") or isinstance(patience, bool) or patience < 1):
            raise CallError(f"early_stopping_patience is {patience!r}; it is a number of epochs, or None for never")
        if not (isinstance(min_delta, SupportsFloat) and float(min_delta) >= 0):
            raise CallError(f"min_delta is {min_delta!r}; it is a number from 0 on")
        if self.mode == "auto":
            direction = direction_by_name(self.metric)
            if direction is None:
                raise CallError(
                    f"monitor is {self.metric!r}, whose name does not say whether more of it is better: pass mode='min'"
                    " or mode='max'"
                )
            self.mode = "min" if direction == "minimize" else "max"

    def improved(self, epoch: int, value: float) -> bool:
        """Takes the value of an epoch (from 1 on); whether it is the best one so far. NaN never is."""
        gain = value - self.best if self.mode == "max" else self.best - value
        first = self.best_epoch == 0 and not math.isnan(value)
        if first or gain > self.min_delta:
            self.best, self.best_epoch, self.stale = value, epoch, 0
            return True
        self.stale += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether it has not improved for as many epochs as patience allows."""
        return self.patience is not None and self.stale >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {
            "metric": self.metric,
            "mode": self.mode,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "stale": self.stale,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Goes on from a checkpoint; whether it can: the best value of another metric is none of this one."""
        if (state.get("metric", self.metric), state.get("mode", self.mode)) != (self.metric, self.mode):
            return False
        self.best = float(state["best"])
        self.best_epoch, self.stale = int(state["best_epoch"]), int(state["stale"])
        return True
