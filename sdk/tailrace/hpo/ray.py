"""Ray Tune: the runs of its trials, by `TailraceLoggerCallback` in the program that tunes.

Importing this module imports Ray, where it is installed.
"""

from __future__ import annotations

import contextvars
import csv
import math
import numbers
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace.hpo.tracking import SearchTracker
from tailrace_agent.errors import SettingsError

if TYPE_CHECKING:
    import os

    from tailrace.protocol import TrackedRun, TrackerLike

try:
    from ray.tune.logger import LoggerCallback
except ModuleNotFoundError:  # reported when a callback is made
    LoggerCallback = None

__all__ = ["ReportingTracker", "TailraceLoggerCallback"]

_OF_RAY: Final = frozenset({
    "trial_id", "experiment_id", "date", "timestamp", "pid", "hostname", "node_ip", "config", "done",
    "should_checkpoint", "time_since_restore", "iterations_since_restore", "timesteps_since_restore",
    "checkpoint_dir_name",
})  # fmt: skip
"""What Ray adds to a result, and is no metric."""
_MODES: Final = {"min": min, "max": max}


class TailraceLoggerCallback(LoggerCallback or object):  # type: ignore[misc]  # Ray has no types here
    """A run above all trials of a `Tuner`, and a nested run for each of them: params `hpo/*`, metrics as reported.

    Args:
        study_name: The name of the run above.
        metric: What is optimized, for `best_<metric>` and `trial/<metric>`.
        mode: `min` or `max`.
        tracker: Its runs have to be known by id, as tailrace's are: trials run side by side.
        mlflow_tracking_uri: Where runs go; where the tracker sends them by default.
        mlflow_experiment_name: Their experiment; likewise.
        tags: Of every run.

    Raises:
        SettingsError: Ray is not installed, the mode is none, or the tracker has one run at a time.

    Thread safety: called by Ray in the thread of `Tuner.fit()`.

    Example:
        >>> callback = TailraceLoggerCallback("digits", metric="val_loss", mode="min")
        >>> Tuner(train, param_space=space, run_config=RunConfig(callbacks=[callback])).fit()
    """

    def __init__(
        self,
        study_name: str,
        *,
        metric: str | None = None,
        mode: str = "max",
        tracker: TrackerLike | None = None,
        mlflow_tracking_uri: str | None = None,
        mlflow_experiment_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        if LoggerCallback is None:
            raise SettingsError("TailraceLoggerCallback is for Ray Tune: pip install 'tailrace[ray]'")
        if mode not in _MODES:
            raise SettingsError(f"mode is {mode!r}; allowed: min, max")
        self._study_name, self._metric, self._mode = study_name, metric, mode
        settings = {"tracking_uri": mlflow_tracking_uri, "experiment_name": mlflow_experiment_name}
        self._arguments = (tracker, settings, None, tags)
        self._tracker: SearchTracker | None = None
        self._parent: TrackedRun | None = None
        self._context: contextvars.Context | None = None
        self._runs: dict[str, TrackedRun] = {}
        self._numbers: dict[str, int] = {}
        self._failed: set[str] = set()
        self._results: dict[str, dict[str, Any]] = {}

    def setup(self, *_: Any, **__: Any) -> None:
        """Starts the run above."""
        self._tracker = SearchTracker(*self._arguments)
        if self._tracker.resuming is None:
            raise SettingsError(
                "TailraceLoggerCallback needs a tracker with several runs at a time, such as tailrace's"
            )
        self._parent = self._tracker.start_parent(self._study_name, None, {"study_name": self._study_name})
        self._parent.log_params({"study_name": self._study_name, "metric": self._metric or "", "mode": self._mode})
        self._context = contextvars.copy_context()

    def log_trial_start(self, trial: Any) -> None:
        """Starts a trial's run, once; a trial that Ray tries again goes on in it."""
        if trial.trial_id in self._runs:
            return
        assert self._tracker is not None
        assert self._context is not None
        number = self._numbers.setdefault(trial.trial_id, len(self._numbers))
        tags = {"study_name": self._study_name, "trial_id": trial.trial_id}
        # In a context of its own: the run above stays the active one here.
        run = self._context.copy().run(self._tracker.start_trial, f"trial_{number:04d}", None, tags)
        run.log_params({**_params(trial, "hpo/"), "trial_number": number, "study_name": self._study_name})
        run.log({"trial/number": number}, step=0)
        self._runs[trial.trial_id] = run

    def log_trial_result(self, iteration: int, trial: Any, result: Mapping[str, Any]) -> None:
        """Logs what a trial has reported, at its own iteration."""
        del iteration
        self.log_trial_start(trial)
        metrics = _metrics(result)
        self._results[trial.trial_id] = metrics
        self._runs[trial.trial_id].log(metrics, step=int(result.get("training_iteration", 0)))

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Ends a trial's run."""
        run = self._runs.pop(trial.trial_id, None)
        if run is None:
            return
        value = self._results.get(trial.trial_id, {}).get(self._metric or "")
        if value is not None:
            run.log({f"trial/{self._metric}": value}, step=0)
        run.set_tags({"trial.state": "ERROR" if failed else "TERMINATED"})  # its status is still RUNNING here
        if failed:
            self._failed.add(trial.trial_id)
            run.fail(_error_of(trial))
        else:
            run.end("FINISHED")

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        """Writes what the search has come to, and ends the run above. Trials that were interrupted are KILLED."""
        interrupted = set(self._runs)
        for run in self._runs.values():
            run.set_tags({"trial.state": "INTERRUPTED"})
            run.end("KILLED")
        self._runs.clear()
        if self._parent is None:
            return
        total, failed = len(self._numbers), len(self._failed)
        metrics: dict[str, float] = {
            "total_trials": total,
            "completed_trials": total - failed - len(interrupted),
            "failed_trials": failed + len(interrupted),
        }
        best = self._best()
        if best is not None:
            metrics |= {f"best_{self._metric}": self._results[best][self._metric or ""]}
            metrics["best_trial_number"] = self._numbers[best]
            (trial,) = [trial for trial in trials if trial.trial_id == best]
            self._parent.log_params(_params(trial, "best_hpo/"))
        self._parent.log(metrics, step=total)
        self._log_table(trials, self._parent)
        self._parent.end("KILLED" if interrupted else "FINISHED")
        self._parent = None

    def _best(self) -> str | None:
        metric = self._metric
        if metric is None:
            return None
        reported = {trial: found[metric] for trial, found in self._results.items() if metric in found}
        values = {
            trial: value for trial, value in reported.items() if trial not in self._failed and not math.isnan(value)
        }
        return _MODES[self._mode](values, key=values.__getitem__) if values else None

    def _log_table(self, trials: list[Any], run: TrackedRun) -> None:
        rows = [
            {"number": self._numbers[trial.trial_id], "trial_id": trial.trial_id, "state": str(trial.status)}
            | {f"params_{name}": value for name, value in trial.config.items()}
            | self._results.get(trial.trial_id, {})
            for trial in trials
            if trial.trial_id in self._numbers
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "hpo_trials_history.csv")
            with path.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, names)
                table.writeheader()
                table.writerows(rows)
            run.log_artifact(path)


class ReportingTracker:
    """A tracker for what trains inside of a trial, on whichever machine: its metrics are reported to Ray.

    A `Trainer` that is given one reports after each epoch; the callback above logs that to the trial's run. What is no
    metric (params, tags, files) stays where it is: Ray carries numbers.

    Args:
        report: `ray.tune.report` by default; inside of Ray Train `ray.train.report`.
        on: What begins with it is reported when it is logged, with the last values of all other metrics.

    Example:
        >>> def train(config):
        ...     Trainer(model, loader, val_loader, optimizer, criterion, tracker=ReportingTracker()).train()
    """

    def __init__(self, report: Callable[[dict[str, Any]], object] | None = None, on: str = "epoch/") -> None:
        if report is None:
            from ray import tune

            report = tune.report
        self._report, self._on = report, on
        self._last: dict[str, float] = {}

    def start_run(self, **_: Any) -> ReportingTracker:
        """The trial is the run."""
        return self

    def __enter__(self) -> ReportingTracker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def end_run(self, status: str = "FINISHED") -> None:
        """Ray ends the trial."""

    def log(self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, **values: Any) -> None:
        """Keeps metrics, and reports them with those of an epoch."""
        named = {name: float(value) for name, value in {**(metrics or {}), **values}.items()}
        self._last.update(named)
        if any(name.startswith(self._on) for name in named):
            self._report({**self._last, **({} if step is None else {"step": step})})

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Ray has them."""

    def log_config(self, config: Any) -> None:
        """Ray has it."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Ray has none."""

    def log_figure(self, figure: Any, artifact_file: str) -> None:
        """Stays here."""

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """Stays here."""


def _metrics(result: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """The numbers of a result; those in mappings under both names."""
    found: dict[str, float] = {}
    for key, value in result.items():
        if not above and key in _OF_RAY:
            continue
        if isinstance(value, Mapping):
            found |= _metrics(value, f"{above}{key}/")
        elif isinstance(value, numbers.Number) or hasattr(value, "__float__"):
            found[f"{above}{key}"] = float(value)
    return found


def _params(trial: Any, prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in trial.config.items()}


def _error_of(trial: Any) -> BaseException:
    """What a trial has raised, by the last line of what Ray has noted; not yet where its results are kept."""
    try:
        lines = Path(trial.local_path, trial.run_metadata.error_filename or "").read_text("utf-8").split("\n")
    except (OSError, TypeError):
        lines = []
    last = next((line for line in reversed(lines) if line.strip()), f"TrialFailed: trial {trial.trial_id}")
    kind, _, message = last.partition(": ")
    error: BaseException = type(kind.rpartition(".")[2] or "TrialFailed", (Exception,), {})(message or last)
    return error
