"""One trial as a run: what it is given, what it logs, and how it ends, in Optuna and in MLflow alike.

A trial that was pruned is FINISHED, with the tag `trial.state`: somebody decided so, the pruner, or a person
who has asked the trial or the search to stop. One whose objective raised is FAILED, with the error as tags, and one
that was interrupted is KILLED. Whatever the objective raises goes on to Optuna as it is.

A trial that went to its end, or was pruned, is so in Optuna first: of a process that is killed before that, MLflow has
a KILLED run, as Optuna has a FAIL. What is killed between the two is mended by `reconciled`.
"""

from __future__ import annotations

import contextvars
import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tailrace.hpo.search_space import nearest
from tailrace.hpo.whereabouts import this_process
from tailrace_agent.errors import TailraceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

    from tailrace.hpo.search_space import Space
    from tailrace.hpo.tracking import SearchTracker, Status
    from tailrace.protocol import TrackedRun

__all__ = ["ATTRIBUTE", "BadValue", "Objective", "Pruning", "TrialRuns", "tags_of"]

Objective = Any
"""`objective(trial, params)`: a number, or metrics by name with the one that is optimized among them."""

ATTRIBUTE: Final = "tailrace"
"""The user attribute of a trial that says which run it is, and which process is at work on it."""


class BadValue(ValueError):
    """What an objective has returned is no value."""


@dataclass(frozen=True)
class Pruning:
    """What the pruner gets to see.

    Attributes:
        on: The metric.
        sign: -1 where it gets better in the other direction than the study's value does: the pruner knows but one.
    """

    on: str
    sign: int


class TrialRuns:
    """The trials of one search in this process.

    Args:
        tracker: Where their runs go.
        metric: What is optimized.
        space: Suggests their parameters.
        objective: What is run.
        pruning: What is reported to the pruner, if anything.
        parent_run_id: MLflow's id of the run above, where that is another machine's.

    Attributes:
        runs: Their runs by the trials' numbers.

    Thread safety: trials in several threads at once; each has a context of its own, with the parent's run in it.
    """

    def __init__(
        self,
        tracker: SearchTracker,
        metric: str,
        space: Space,
        objective: Objective,
        pruning: Pruning | None = None,
        parent_run_id: str | None = None,
    ) -> None:
        self._tracker, self._metric, self._space, self._objective = tracker, metric, space, objective
        self._pruning, self._parent_run_id = pruning, parent_run_id
        self._context = contextvars.copy_context()
        self._untold: dict[int, Callable[[Status], None]] = {}
        self.runs: dict[int, TrackedRun] = {}

    def __call__(self, trial: Trial) -> float:
        """Runs one trial; what Optuna calls."""
        context = self._context.copy()
        return context.run(self._in_a_run, trial, context)

    def told(self, study: Study, trial: FrozenTrial) -> None:
        """Ends the run of a trial that Optuna has heard the end of; a callback of `Study.optimize`."""
        del study
        if (end := self._untold.pop(trial.number, None)) is not None:
            end("FINISHED")

    def close(self) -> None:
        """Ends the runs of trials of which Optuna could not be told, as when its storage is away."""
        while self._untold:
            _, end = self._untold.popitem()
            end("KILLED")

    def run_ids(self) -> tuple[str, ...]:
        """MLflow's ids of these runs, in the order of the trials, as far as MLflow has created them."""
        found = []
        for _, run in sorted(self.runs.items()):
            try:
                found.append(run.run_id)
            except (TimeoutError, TailraceError):  # it is away: no use in waiting once more for each of the others
                break
        return tuple(run_id for run_id in found if run_id)

    def _in_a_run(self, trial: Trial, context: contextvars.Context) -> float:
        from optuna import TrialPruned

        study = trial.study.study_name
        run = self._tracker.start_trial(f"trial_{trial.number:04d}", self._parent_run_id, {"study_name": study})
        self.runs[trial.number] = run
        try:
            trial.set_user_attr(ATTRIBUTE, {"run": run.id, "process": this_process()})
            value = self._value(trial, run, study)
        except TrialPruned as pruned:
            self._untold[trial.number] = _end_of(run, context, {"trial.state": "PRUNED", "trial.pruned": str(pruned)})
            raise
        except Exception as error:
            run.set_tags({"trial.state": "FAIL"})
            run.fail(error)
            raise
        except BaseException as error:  # Ctrl-C, or an exit
            run.set_tags({"trial.state": "FAIL", "error.type": type(error).__qualname__})
            run.end("KILLED")
            if not isinstance(error, KeyboardInterrupt):
                _give_up(trial)
            raise
        self._untold[trial.number] = _end_of(run, context, {"trial.state": "COMPLETE"})
        return value

    def _value(self, trial: Trial, run: TrackedRun, study: str) -> float:
        params = self._space(trial)
        hpo = {f"hpo/{name}": value for name, value in params.items()}
        run.log_params({**hpo, "trial_number": trial.number, "study_name": study})
        run.log({"trial/number": trial.number}, step=0)
        if self._pruning is not None:
            stop = partial(self._tracker.should_stop, run)
            run.observe(self._pruning.on, _reporting(trial, self._pruning, stop))
        metrics = _metrics(self._called(trial, params), self._metric)
        run.log({f"trial/{name}": value for name, value in metrics.items()}, step=0)
        return metrics[self._metric]

    def _called(self, trial: Trial, params: dict[str, Any]) -> Any:
        return self._objective(trial, params)


def is_of_objective(error: BaseException) -> bool:
    """Whether an objective has raised it, and not Optuna or its storage."""
    calling = TrialRuns._called.__code__
    return any(frame.f_code is calling for frame, _ in traceback.walk_tb(error.__traceback__))


def tags_of(trial: FrozenTrial) -> dict[str, str]:
    """The tags of the run of a trial that is COMPLETE or PRUNED, as far as the study knows them."""
    tags = {"trial.state": trial.state.name}
    if trial.state.name == "PRUNED" and trial.last_step is not None:
        tags["trial.pruned"] = f"at step {trial.last_step}"
    return tags


def _end_of(run: TrackedRun, context: contextvars.Context, tags: Mapping[str, str]) -> Callable[[Status], None]:
    """Ends a run in the context in which it was started: a tracker may have its active run there."""

    def end(status: Status) -> None:
        if status == "FINISHED":
            context.run(run.set_tags, tags)
        context.run(run.end, status)

    return end


def _metrics(returned: Any, metric: str) -> dict[str, float]:
    """What an objective has returned, as metrics.

    Raises:
        BadValue: Optuna could do nothing with it.
    """
    named = dict(returned) if isinstance(returned, Mapping) else {metric: returned}
    if metric not in named:
        raise BadValue(f"the objective has returned no {metric!r}, which is optimized; {nearest(metric, named)}")
    try:
        value = float(named[metric])
    except (TypeError, ValueError):
        raise BadValue(
            f"the objective has returned {named[metric]!r} for {metric!r}: return a number, or metrics by name"
        ) from None
    if math.isnan(value):
        raise BadValue(f"the objective has returned NaN for {metric!r}, which cannot be compared")
    return {**named, metric: value}


def _reporting(
    trial: Trial, pruning: Pruning, asked_to_stop: Callable[[], bool]
) -> Callable[[int, dict[str, float]], None]:
    def report(step: int, values: dict[str, float]) -> None:
        from optuna import TrialPruned

        if step < 0:  # Optuna counts from 0
            return
        value = values[pruning.on]
        trial.report(pruning.sign * value, step)
        if trial.should_prune():
            raise TrialPruned(f"{pruning.on} {value:g} at step {step}")
        if asked_to_stop():
            raise TrialPruned(f"asked to stop, at step {step}")

    return report


def _give_up(trial: Trial) -> None:
    """Optuna has no end for a trial whose objective exits."""
    from optuna.trial import TrialState

    trial.study.tell(trial, state=TrialState.FAIL)
