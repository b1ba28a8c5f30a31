"""A base class for experiments: configuration in; params, metrics, figures and the outcome logged by themselves."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

from tailrace.config import TrackingConfig, build_tracker_from_config, load_config

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from tailrace._api.tracker import Tracker

__all__ = ["Experiment"]


class Experiment:
    """An experiment: override `evaluate`, and `train` and `figures` where you need them, and call `run`.

    Inside, `self.config` is the experiment's own configuration, and `self.log(step=…, loss=…)` logs while it trains.
    With tracking off the same code leaves local reports.

    Args:
        config: A file, a dictionary, or a `TrackingConfig`; see `load_config`.
        tracker: Takes everything; by default one that is built from the configuration.

    Attributes:
        tracking: The configuration of the tracking.
        config: Everything else in the document.
        tracker: Where all of it goes.

    Raises:
        SettingsError: The configuration is wrong.

    Example:
        >>> class Digits(Experiment):
        ...     def train(self):
        ...         self.model = fit(self.config["layers"])
        ...
        ...     def evaluate(self):
        ...         return {"test/accuracy": self.model.score(x, y)}
        >>> Digits("config.yaml").run()
        {'test/accuracy': 0.97}
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | TrackingConfig | None = None,
        *,
        tracker: Tracker | None = None,
    ) -> None:
        self.tracking = load_config(config)
        self.config: dict[str, Any] = dict(self.tracking.experiment)
        self.tracker = build_tracker_from_config(self.tracking) if tracker is None else tracker

    def train(self) -> Mapping[str, Any] | None:
        """Trains. Metrics that it returns are logged; `self.log` logs them on the way."""
        return None

    def evaluate(self) -> Mapping[str, Any]:
        """Evaluates, and returns the metrics, under the names that they are to have."""
        raise NotImplementedError(f"{type(self).__name__} has no evaluate()")

    def figures(self) -> Mapping[str, Any]:
        """Figures by file name (`{"confusion.png": figure}`); they are kept under `figures/`."""
        return {}

    def log(self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, **values: Any) -> None:
        """Logs metrics of one training step; as `tailrace.log`."""
        self.tracker.log(metrics, step=step, **values)

    def run(self) -> dict[str, Any]:
        """Seeds, trains, evaluates and draws, in one run. An exception ends it as FAILED, and goes on.

        Returns:
            The metrics of `train` and `evaluate`.
        """
        name = self.tracking.run_name or self.tracking.name or type(self).__name__
        # Nested where one is active: a sweep calls `run` for each of its trials.
        with self.tracker.start_run(run_name=name, nested=self.tracker.active_run() is not None) as run:
            if self.config:
                run.log_config(self.config)
            self._seed()  # last, since a run that begins may draw numbers, too
            metrics = dict(self.train() or {})
            metrics.update(self.evaluate())
            run.log_metrics(metrics)
            for file, figure in self.figures().items():
                run.log_figure(figure, f"figures/{file}")
        return metrics

    def _seed(self) -> None:
        """Seeds what is there: Python's generator, and NumPy's and torch's where they are imported already."""
        seed = self.tracking.seed
        if seed is None:
            return
        random.seed(seed)
        for module, how in (("numpy", "random.seed"), ("torch", "manual_seed")):
            # A library that is imported later is not seeded; to import torch for its seed would take seconds.
            target: Any = sys.modules.get(module)
            for part in how.split("."):
                target = getattr(target, part, None)
            if target is not None:
                target(seed)
