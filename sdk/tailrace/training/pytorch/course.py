"""One training, epoch by epoch: what it logs, what it keeps, and when it is over."""

from __future__ import annotations

import contextlib
import copy
import time
from typing import TYPE_CHECKING, Any

import yaml

from tailrace.training.pytorch import checkpoints
from tailrace.training.pytorch.logged_steps import LoggedSteps
from tailrace.training.pytorch.step_log import StepLog
from tailrace.training.runs.tracked_run import Resumed
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tailrace.training.pytorch.loop import Loop, Step
    from tailrace.training.pytorch.monitor import Monitor
    from tailrace.training.pytorch.progress import Progress
    from tailrace.training.pytorch.ranks import Ranks
    from tailrace.training.pytorch.recipe import Recipe
    from tailrace.training.runs.tracked_run import TrackedRun

__all__ = ["Course"]


class Course:
    """One training from its first epoch, or from a checkpoint, to its end.

    Args:
        recipe: What is trained, on what, and how.
        monitor: Which epoch is the best, and when to stop.
        ranks: The processes that train together.
        loop: Trains and validates.
        run: Where everything is logged to.
        resumed: How far that run is, if training goes on in it.
        folder: Where checkpoints are kept.
        progress: Shows how far it is.

    Attributes:
        progress: The same.
    """

    def __init__(
        self,
        recipe: Recipe,
        monitor: Monitor,
        ranks: Ranks,
        loop: Loop,
        run: TrackedRun,
        resumed: Resumed | None,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._recipe, self._monitor, self._ranks, self._loop = recipe, monitor, ranks, loop
        self._run, self._resumed, self._folder, self.progress = run, resumed, folder, progress
        has = resumed or Resumed("")
        # With tracking off nothing is logged, and who goes on later must not take it for logged.
        kept = recipe.checkpoint_dir is not None and ranks.first and run.enabled
        mark = LoggedSteps(folder, has.step, has.epoch) if kept else None
        self._log = StepLog(run.target, recipe.optimizer, recipe.logging_steps, ranks.device, has.step, has.epoch, mark)
        self._epoch = 0
        self._kept: set[str] = set()  # checkpoints of this training: the folder may hold others
        self._at_best: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def go_on(self, state: Mapping[str, Any], source: Path) -> None:
        """From a checkpoint that the loop has loaded; the best one is beside it."""
        self._epoch, self._last = state["epoch"], dict(state["last"])
        elsewhere = source.parent != self._folder
        if not elsewhere:
            self._kept.add(checkpoints.LAST)
        if not self._monitor.load_state_dict(state["monitor"]):
            self.progress.warn(
                f"the checkpoint was judged by another metric, so the best {self._monitor.metric} is new"
            )
        elif self._monitor.best_epoch:
            self._at_best = dict(state["at_best"])
            best = source.with_name(checkpoints.BEST)
            if best.exists():
                if elsewhere and self._ranks.first:
                    checkpoints.keep(best, self._folder / checkpoints.BEST)
                self._kept.add(checkpoints.BEST)
        states = state["random"]
        checkpoints.restore_random_state(states[self._ranks.rank % len(states)])
        self.progress.say(f"going on after epoch {self._epoch} of {self._recipe.num_epochs}")

    def through(self) -> dict[str, Any]:
        """All epochs; the metrics of the result."""
        recipe = self._recipe
        config = recipe.config()
        if self._resumed is None:
            self._run.target.log_params(config)
            self._log_config(config)
        for callback in recipe.callbacks:
            callback.on_start(config)
        if recipe.checkpoint_dir is not None and not self._epoch:
            self._save()  # a crash in the first epoch finds its run again
        try:
            stopped = self._epochs()
        finally:
            self.progress.close()
            self._keep_checkpoints()
        final = {
            f"best_{self._monitor.metric}": self._monitor.best,
            "best_epoch": self._monitor.best_epoch,
            "total_epochs": self._epoch,
            "total_steps": self._loop.step,
            "early_stopped": stopped,
        }
        if self._resumed is None or self._resumed.total_steps != self._loop.step:  # it was over before
            self._log.end(final, max(0, self._loop.step - 1))
        return {**self._last, **{f"best_{name}": value for name, value in self._at_best.items()}, **final}

    @contextlib.contextmanager
    def best_weights(self) -> Iterator[None]:
        """Inside, the model has the weights of its best epoch, and is as it is for predictions."""
        model, last = self._recipe.model, None
        training = model.training
        if checkpoints.BEST in self._kept:
            last = copy.deepcopy(model.state_dict())
            model.load_state_dict(checkpoints.load(self._folder / checkpoints.BEST)["model"])
        model.eval()
        try:
            yield
        finally:
            model.train(training)
            if last is not None:
                model.load_state_dict(last)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _epochs(self) -> bool:
        """Whether it has stopped early."""
        recipe, monitor = self._recipe, self._monitor
        while self._epoch < recipe.num_epochs:
            if monitor.exhausted:
                return True
            if self._epoch and self._asked_to_stop():
                self.progress.say(f"asked to stop: ends after epoch {self._epoch} of {recipe.num_epochs}")
                return False
            epoch = self._epoch + 1
            began = time.monotonic()
            self.progress.begin(epoch, self._steps())
            metrics = {**self._loop.train(epoch, self._step), **self._loop.validate()}
            seconds = time.monotonic() - began
            monitored = self._monitored(metrics)
            best = monitor.improved(epoch, monitored)
            self._loop.end_epoch(monitored)
            self._epoch, self._last = epoch, metrics
            if best:
                self._at_best = metrics
            self._log.epoch(epoch, metrics, seconds)
            self._save(best=best)
            self.progress.end(epoch, metrics, seconds, best=best)
            for callback in recipe.callbacks:
                callback.on_epoch_end(epoch, metrics)
        return monitor.exhausted

    def _asked_to_stop(self) -> bool:
        """Whether somebody has asked the run to stop; the processes ask together, so that all of them end."""
        ask = getattr(self._run.target, "should_stop", None)
        return self._ranks.any(ask is not None and bool(ask()))

    def _monitored(self, metrics: Mapping[str, float]) -> float:
        name = self._monitor.metric
        if name not in metrics:
            raise CallError(
                f"monitor is {name!r}, which nobody computes for these outputs and targets; there are "
                f"{', '.join(metrics)} (more by metrics=)"
            )
        return metrics[name]

    def _step(self, step: Step) -> None:
        self._log.step(step)
        self.progress.step()
        for callback in self._recipe.callbacks:
            callback.on_step(step.number)

    def _steps(self) -> int | None:
        try:
            return len(self._recipe.train_loader)
        except TypeError:
            return None

    def _save(self, *, best: bool = False) -> None:
        states = self._ranks.gathered(checkpoints.random_state())
        if not self._ranks.first:
            return
        path = self._folder / checkpoints.LAST
        state = {
            **self._loop.state_dict(),
            "epoch": self._epoch,
            "monitor": self._monitor.state_dict(),
            "at_best": self._at_best,
            "last": self._last,
            "random": states,
            "run": self._run.name,
        }
        try:
            checkpoints.save(path, state, best=best)
        except (OSError, RuntimeError) as error:  # torch raises the latter for what the disk refuses
            self.progress.warn(f"the checkpoint of epoch {self._epoch} is not written, and training goes on: {error}")
            return
        self._kept |= {checkpoints.LAST, checkpoints.BEST} if best else {checkpoints.LAST}

    def _keep_checkpoints(self) -> None:
        """What is there becomes artifacts, however the training has ended."""
        if not self._ranks.first:
            return
        for name in (checkpoints.BEST, checkpoints.LAST):
            if name in self._kept:
                self._run.target.log_artifact(str(self._folder / name), "checkpoints")

    def _log_config(self, config: Mapping[str, Any]) -> None:
        self._run.log_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), "config.yaml")
