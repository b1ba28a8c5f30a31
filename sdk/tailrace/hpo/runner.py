"""A search by Optuna whose trials are tracked by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace.hpo.parent import Parent, asked_to_stop, await_run_id
from tailrace.hpo.result import result_of
from tailrace.hpo.search_space import read_space
from tailrace.hpo.storage import gone_away, open_storage
from tailrace.hpo.studies import check_directions, check_extent, chosen, count, fail_the_dead, open_study
from tailrace.hpo.tracking import SearchTracker
from tailrace.hpo.trials import Pruning, TrialRuns, is_of_objective
from tailrace_agent.text.directions import direction_by_name

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

    from tailrace.hpo.result import HpoResult
    from tailrace.hpo.search_space import Space
    from tailrace.hpo.studies import Counts
    from tailrace.hpo.tracking import Status
    from tailrace.hpo.trials import Objective
    from tailrace.protocol import TrackerLike

__all__ = ["OptunaRunner"]


class OptunaRunner:
    """A study by Optuna, with a run above its trials and a nested run for each of them.

    Args:
        study_name: The study's name, and that of the run above its trials.
        direction: `maximize` or `minimize`.
        metric: The name of what the objective returns.
        storage: Where the study is kept: a file that processes of one machine share, `postgresql://…`,
            `grpc://host:port`, or what Optuna has opened. None: this object's memory.
        sampler: Optuna's, or its name (`tpe`, `random`), or a table with `name` and its arguments.
        pruner: Likewise (`median`, `hyperband`).
        seed: For a sampler that is given by name, or not at all.
        prune_on: A metric that trials log; each `log()` that holds it reports to the pruner, and raises
            `optuna.TrialPruned` when the trial is to end.
        prune_direction: `minimize` or `maximize`, where that metric gets better in the other direction than `metric`
            does. By default its name says it: a `loss` or an `error` is to get smaller, an `accuracy` larger; one that
            says nothing goes with `metric`.
        tracker: Any `TrackerLike`; the functions of `tailrace` by default.

    Raises:
        SettingsError: Something of it can never work, or Optuna is not installed.
        Unavailable: The storage does not answer.

    Example:
        >>> runner = OptunaRunner("digits", metric="val_accuracy", prune_on="val_loss")
        >>> runner.optimize(train, 20, {"lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True}})
        <HpoResult 'digits': 20 trials, 14 completed, 6 pruned, 0 failed; best val_accuracy 0.97 of trial 11: …>
    """

    def __init__(  # noqa: PLR0913 - a study has these
        self,
        study_name: str,
        direction: str = "maximize",
        metric: str = "val_f1_macro",
        *,
        storage: str | os.PathLike[str] | BaseStorage | None = None,
        sampler: BaseSampler | str | Mapping[str, Any] | None = None,
        pruner: BasePruner | str | Mapping[str, Any] | None = None,
        seed: int | None = None,
        prune_on: str | None = None,
        prune_direction: str | None = None,
        tracker: TrackerLike | None = None,
    ) -> None:
        check_directions(direction, prune_direction, prune_on)
        self.study_name, self.direction, self.metric = study_name, direction, metric
        self._sampler, self._pruner = chosen(sampler, "sampler", seed), chosen(pruner, "pruner")
        self._pruning = _pruning(prune_on, prune_direction, direction, metric)
        self._tracker = tracker
        self._described = storage
        self._storage = open_storage(storage)

    def optimize(  # noqa: PLR0913 - Optuna's own arguments, and where to
        self,
        objective_fn: Objective,
        n_trials: int | None,
        search_space: Mapping[str, Any] | Callable[[Trial], Mapping[str, Any]],
        *,
        mlflow_tracking_uri: str | None = None,
        mlflow_experiment_name: str | None = None,
        n_jobs: int = 1,
        timeout: float | None = None,
        catch: type[Exception] | tuple[type[Exception], ...] = (),
        resume: bool = True,
    ) -> HpoResult:
        """Runs trials until the study has so many, or the time is over.

        Args:
            objective_fn: `objective(trial, params)`: trains, logs what it likes, and returns the metric, or metrics
                by name with that one among them.
            n_trials: Trials that the study is to have in all, those of earlier calls and other processes included.
                None: as many as the time allows.
            search_space: Parameters with their ranges, or a function of the trial that returns them.
            mlflow_tracking_uri: Where runs go; where the tracker sends them by default.
            mlflow_experiment_name: Their experiment; likewise.
            n_jobs: Trials at a time, in threads. -1: one for each CPU.
            timeout: Seconds after which no trial begins.
            catch: Exceptions by which a trial fails and the search goes on. All others end it.
            resume: Go on with a study of that name, and with its run. False: that it exists is an error.

        Returns:
            What the study has come to, trials of earlier calls included.

        Raises:
            SettingsError: The search space or another argument is wrong. Nothing has begun then.
            Unavailable: The storage has gone away on the way. All that was logged is delivered, and the same call goes
                on with the study once it is back.

        Thread safety: one call at a time for each object.
        """
        check_extent(n_trials, timeout)
        space = read_space(search_space)
        study, created = self._open(resume=resume)
        fail_the_dead(study)
        settings = {"tracking_uri": mlflow_tracking_uri, "experiment_name": mlflow_experiment_name}
        tracker = SearchTracker(self._tracker, settings)
        parent = Parent(tracker, study, created=created, metric=self.metric, params=self._params())
        trials = TrialRuns(tracker, self.metric, space, objective_fn, self._pruning, parent.below)
        self._search(study, trials, parent, n_trials, timeout=timeout, n_jobs=n_jobs, catch=_tuple(catch))
        return result_of(study, self.metric, parent.run_id, trials.run_ids())

    def work(
        self,
        objective_fn: Objective,
        space: Space,
        turn: Callable[[], bool],
        *,
        tracker: SearchTracker,
        apart: bool,
    ) -> None:
        """Runs trials of a study that another process has made, as long as it is its turn.

        Args:
            objective_fn: As for `optimize`. What it raises makes its trial FAIL, and the next one begins.
            space: Suggests the parameters.
            turn: Whether one more trial is to begin; called before each.
            tracker: Where the trials' runs go.
            apart: Whether the run above is another machine's.
        """
        study, _ = self._open(resume=True)

        def goes_on() -> bool:
            return not tracker.should_stop(None) and not asked_to_stop(study) and turn()

        # Without it, the program that has started this one says what the active run is.
        parent_run_id = await_run_id(study) if apart or not tracker.has_active_run else None
        trials = TrialRuns(tracker, self.metric, space, objective_fn, self._pruning, parent_run_id)
        if goes_on():
            callbacks = [trials.told, lambda *_: None if goes_on() else study.stop()]
            try:
                study.optimize(trials, callbacks=callbacks, catch=(Exception,))
            finally:
                trials.close()

    def counts(self) -> Counts:
        """How far the study is that it has opened."""
        study, _ = self._open(resume=True)
        return count(study)

    def _open(self, *, resume: bool) -> tuple[Study, bool]:
        return open_study(
            self.study_name, self.direction, self._storage, self._sampler, self._pruner,
            resume=resume, described=self._described,
        )  # fmt: skip

    def _search(self, study: Study, trials: TrialRuns, parent: Parent, n_trials: int | None, **options: Any) -> None:
        left = None if n_trials is None else n_trials - count(study).total
        status: Status = "FINISHED"
        error: BaseException | None = None
        try:
            if left is None or left > 0:
                callbacks = [trials.told, _stop_at(n_trials), _stop_if(parent)]
                study.optimize(trials, n_trials=left, callbacks=callbacks, **options)
        except Exception as raised:
            away = None if is_of_objective(raised) else gone_away(raised, self._described)
            status, error = "FAILED", away or raised
            if away is not None:
                raise away from None  # what it says is what came before it
            raise
        except BaseException:
            status = "KILLED"
            raise
        finally:
            trials.close()
            parent.finish(status, error)

    def _params(self) -> dict[str, Any]:
        params = {
            "study_name": self.study_name,
            "direction": self.direction,
            "metric": self.metric,
            "sampler": type(self._sampler).__name__,
            "pruner": None if self._pruner is None else type(self._pruner).__name__,
            "prune_on": None if self._pruning is None else self._pruning.on,
        }
        return {name: value for name, value in params.items() if value is not None}


def _pruning(on: str | None, prune_direction: str | None, direction: str, metric: str) -> Pruning | None:
    if on is None:
        return None
    if prune_direction is None:
        same = on.rpartition("/")[2] == metric.rpartition("/")[2]
        prune_direction = direction if same else direction_by_name(on) or direction
    return Pruning(on, 1 if prune_direction == direction else -1)


def _stop_at(n_trials: int | None) -> Callable[[Study, FrozenTrial], None]:
    """Stops the search when the study has so many trials, those of other processes among them."""

    def look(study: Study, trial: FrozenTrial) -> None:
        if n_trials is not None and trial.number + 1 >= n_trials:
            study.stop()

    return look


def _stop_if(parent: Parent) -> Callable[[Study, FrozenTrial], None]:
    """Stops the search when somebody has asked its run to stop."""

    def look(study: Study, trial: FrozenTrial) -> None:
        del trial
        if parent.asked_to_stop:
            study.stop()

    return look


def _tuple(catch: Any) -> tuple[type[Exception], ...]:
    return catch if isinstance(catch, tuple) else (catch,)
