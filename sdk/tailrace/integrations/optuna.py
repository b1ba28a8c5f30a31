"""Optuna: `TailraceCallback` for `study.optimize(…, callbacks=…)`.

Each trial is a run. A whole search with a run above its trials, pruning by what is logged, tables and pictures takes
`tailrace.hpo.OptunaRunner`.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from tailrace.hpo.tracking import SearchTracker
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tailrace.protocol import TrackedRun, TrackerLike

__all__ = ["TailraceCallback"]

R = TypeVar("R")


class TailraceCallback:
    """A run for each trial: its parameters, its values, its state as the tag `trial.state`.

    They are nested below the active run, where there is one. `tracked` makes a trial's run the active one while the
    objective runs, so that it can log to it.

    Args:
        metric: What the objective returns is called; of several values a name for each.
        tracker: A tracker; tailrace's own by default. To log in several threads, one whose runs are known by id.
        tags: Of each run.

    Raises:
        CallError: The tracker is none, or a name is missing.

    Thread safety: any thread (`n_jobs`).

    Example:
        >>> callback = TailraceCallback("val_loss")
        >>> study.optimize(callback.tracked(objective), n_trials=20, callbacks=[callback])
    """

    def __init__(
        self,
        metric: str | Sequence[str] = "value",
        *,
        tracker: TrackerLike | Any = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        if tracker is not None and not hasattr(tracker, "start_run"):
            raise CallError(f"tracker is {type(tracker).__name__}, which has no start_run(): see tailrace.TrackerLike")
        self._metrics = (metric,) if isinstance(metric, str) else tuple(metric)
        self._tracker, self._tags = SearchTracker(tracker), dict(tags or {})
        self._lock = threading.Lock()
        self._runs: dict[tuple[str, int], TrackedRun] = {}
        self._failed: set[tuple[str, int]] = set()
        """Trials whose runs have ended with their errors, of which Optuna may tell yet."""

    def tracked(self, objective: Callable[[Any], R]) -> Callable[[Any], R]:
        """The objective, with the trial's run active while it runs."""

        @functools.wraps(objective)
        def in_a_run(trial: Any) -> R:
            run = self._start(trial.study, trial.number)
            try:
                return objective(trial)
            except BaseException as error:
                from optuna import TrialPruned

                # Optuna calls nobody of a trial whose error it passes on; one that it catches is over by then, too.
                if not isinstance(error, TrialPruned):
                    self._fail(run, trial, error)
                raise

        return in_a_run

    def __call__(self, study: Any, trial: Any) -> None:
        """A trial is over."""
        with self._lock:
            if (study.study_name, trial.number) in self._failed:
                self._failed.discard((study.study_name, trial.number))
                return
        run = self._runs.get((study.study_name, trial.number)) or self._start(study, trial.number)
        self._describe(run, trial, trial.state.name)
        run.log(self._values(trial), step=0)
        run.end("FAILED" if trial.state.name == "FAIL" else "FINISHED")
        with self._lock:
            self._runs.pop((study.study_name, trial.number), None)

    def _fail(self, run: TrackedRun, trial: Any, error: BaseException) -> None:
        self._describe(run, trial, "FAIL")
        run.fail(error)
        with self._lock:
            self._runs.pop((trial.study.study_name, trial.number), None)
            self._failed.add((trial.study.study_name, trial.number))

    @staticmethod
    def _describe(run: TrackedRun, trial: Any, state: str) -> None:
        run.log_params({**{f"hpo/{name}": value for name, value in trial.params.items()}, "trial_number": trial.number})
        run.set_tags({**trial.user_attrs, "trial.state": state})

    def _start(self, study: Any, number: int) -> TrackedRun:
        name, tags = f"trial_{number:04d}", {"study_name": study.study_name, **self._tags}
        with self._lock:  # of two at once each would take the other's run for one above it
            resuming = self._tracker.resuming
            if resuming is None:
                run = self._tracker.start_trial(name, None, tags)
            else:
                active = resuming.active_run()
                # Another trial's, where they run in several threads, is not above this one.
                beside = {each.id for each in self._runs.values()}
                nested = active is not None and active.id not in beside
                run = resuming.start_run(run_name=name, nested=nested, tags=tags)
            self._runs[study.study_name, number] = run
            self._failed.discard((study.study_name, number))  # of another study of that name
        return run

    def _values(self, trial: Any) -> dict[str, float]:
        values = trial.values or ()
        names = self._metrics
        if len(values) != len(names):  # one name for several
            names = tuple(f"{names[0]}_{n}" for n in range(len(values)))
        return {f"trial/{name}": value for name, value in zip(names, values, strict=True)}
