"""The run above all trials of a study: one, however often and on however many machines the study is gone on with.

* Whoever makes the study starts the run, and *owns* it: writes what the study has come to, and ends it. Which run that
  is stands in the study, so that others find it.
* Who comes while the owner is at work only starts trials below that run. Who comes after it is gone, or has finished,
  goes on with the same run, and owns it.
* That the owner lives is known on its machine from its process, and elsewhere from a time that it writes into the study
  every ten seconds.
* Whoever asks the run to stop asks all processes of the study: the owner, which hears of it, writes it into the study.
* All counts are the study's. Nobody here counts. What a trial has come to is, too: see `reconciled`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from tailrace.hpo.reconciled import end_what_is_over
from tailrace.hpo.reports import log_reports
from tailrace.hpo.storage import reason_of
from tailrace.hpo.studies import best_of, count, numbers_of_ended
from tailrace.hpo.whereabouts import is_gone, this_process
from tailrace_agent.errors import TailraceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna import Study

    from tailrace.hpo.tracking import SearchTracker, Status
    from tailrace.protocol import TrackedRun

__all__ = ["Parent", "asked_to_stop", "await_run_id"]

_BEST: Final = "tailrace.best_hpo"
_PARENT: Final = "tailrace.parent"
_OWNER: Final = "tailrace.owner"
_STOP: Final = "tailrace.stop"
_BEAT_EVERY, _GONE_AFTER = 10.0, 60.0
_BEGINS_WITHIN, _SETTLES_WITHIN = 5.0, 0.3
_JOINED_WITHIN: Final = 60.0
"""Seconds in which the owner's run has to be known to those who join."""


class Parent:
    """The parent run of a study, as this process has it.

    Args:
        tracker: Where runs go.
        study: The study.
        created: Whether this process has made the study.
        metric: What is optimized.
        params: Of the search, for the run's params.

    Attributes:
        run: The run, where this process owns it.
        run_id: MLflow's id, as far as it is known.
    """

    def __init__(
        self, tracker: SearchTracker, study: Study, *, created: bool, metric: str, params: Mapping[str, Any]
    ) -> None:
        self._tracker, self._study, self._metric = tracker, study, metric
        self.run: TrackedRun | None = None
        self.run_id: str | None = None
        self._earlier = frozenset() if created else numbers_of_ended(study)
        self._killed, self._asked = True, False
        self._over, self._lock = threading.Event(), threading.Lock()
        if created:
            self._claim()
        elif not self._comes_to_own():
            self.run_id = await_run_id(study)
            return
        self._own(None if created else self._known(), params)

    @property
    def below(self) -> str | None:
        """MLflow's id for trials to be nested under, where the run is not this program's."""
        return self.run_id if self.run is None else None

    @property
    def asked_to_stop(self) -> bool:
        """Whether no trial is to begin any more: somebody has asked the run to stop."""
        if self.run is None:
            return asked_to_stop(self._study)
        if not self._asked and self._tracker.should_stop(self.run):
            self._asked = True
            self._study.set_user_attr(_STOP, True)  # for those on other machines
        return self._asked

    def finish(self, status: Status, error: BaseException | None = None, *, killed: bool = True) -> None:
        """Writes what the study has come to, and ends the run, which waits for all that the trials have logged.

        Args:
            status: How the search has ended.
            error: What has ended it, if anything.
            killed: Whether a process that ran trials of this search may have been killed.
        """
        self._killed = killed
        if self.run is None and not self._inherits():
            if killed and self.run_id:
                self._reconcile(self.run_id)
            return
        run = self.run
        assert run is not None
        with self._lock:
            self._over.set()
        try:
            self._summarize(run)
            if self.run_id:
                self._reconcile(self.run_id)
        except Exception as failed:  # noqa: BLE001 - a storage that is away: what has ended the search is the news
            _warn(f"what the search has come to could not be written: {reason_of(failed)}")
        if error is not None and status == "FAILED":
            run.fail(error)
        else:
            run.end(status)
        try:
            self._look_up(run)
            self._study.set_user_attr(_OWNER, None)
        except Exception as failed:  # noqa: BLE001 - as above
            _warn(f"the study cannot be written to: {reason_of(failed)}")

    def _inherits(self) -> bool:
        """Whether the run's owner was killed in the meantime; then it is this process's."""
        try:
            owner = self._study.user_attrs.get(_OWNER)
            if owner is None or _lives(owner):
                return False
            self._claim()
        except Exception as failed:  # noqa: BLE001 - a storage that is away
            _warn(f"the study cannot be read: {reason_of(failed)}")
            return False
        self._own(self.run_id, {})
        return True

    def _summarize(self, run: TrackedRun) -> None:
        counts = count(self._study)
        metrics: dict[str, float] = {
            "total_trials": counts.total,
            "completed_trials": counts.completed,
            "pruned_trials": counts.pruned,
            "failed_trials": counts.failed,
        }
        best = best_of(self._study)
        if best is not None:
            metrics |= {f"best_{self._metric}": best.value, "best_trial_number": best.number}
            self._log_best(run, best.params)
        run.log(metrics, step=counts.total)
        log_reports(self._study, run)

    def _reconcile(self, run_id: str) -> None:
        try:
            end_what_is_over(self._study, self._tracker, run_id, self._earlier, killed=self._killed)
        except Exception as failed:  # noqa: BLE001 - MLflow is away: whoever comes next looks again
            _warn(f"runs of trials whose process was killed at their end may be KILLED: {failed}")

    def _log_best(self, run: TrackedRun, params: dict[str, Any]) -> None:
        """As params; MLflow does not let them change, so a better trial after that is in tags of the same names."""
        named = {f"best_hpo/{name}": value for name, value in params.items()}
        before = self._study.user_attrs.get(_BEST)
        if before is None:
            run.log_params(named)
            self._study.set_user_attr(_BEST, named)
        elif before != named:
            run.set_tags(named)

    def _own(self, known: str | None, params: Mapping[str, Any]) -> None:
        """Starts the run, or goes on with one that is known, and shows that this process is at work on it."""
        study = self._study
        self.run = run = self._tracker.start_parent(study.study_name, known, {"study_name": study.study_name})
        if known is None:
            run.log_params(params)
            study.set_user_attr(_PARENT, {"run": run.id, "run_id": None})
        if study.user_attrs.get(_STOP):  # which was meant for the last attempt
            study.set_user_attr(_STOP, None)
        self.run_id = known
        threading.Thread(target=self._beats, name="tailrace-hpo-owner", daemon=True).start()

    def _comes_to_own(self) -> bool:
        """Whether nobody owns a study that was there before; if so, this process does from now on."""
        if not self._study.user_attrs.get(_PARENT) and not count(self._study).total:
            deadline = time.monotonic() + _BEGINS_WITHIN  # whoever has just made it is about to
            while not self._study.user_attrs.get(_OWNER) and time.monotonic() < deadline:
                time.sleep(0.1)
        if _lives(self._study.user_attrs.get(_OWNER)):
            return False
        self._claim()
        time.sleep(_SETTLES_WITHIN)  # of two that come at the same moment, it is the one that has written last
        return not _lives(self._study.user_attrs.get(_OWNER))

    def _claim(self) -> None:
        self._study.set_user_attr(_OWNER, {"process": this_process(), "beat": time.time()})

    def _beats(self) -> None:
        """Shows that the owner lives, and which run MLflow has made of the parent."""
        assert self.run is not None
        while True:
            try:
                self._look_up(self.run)
                with self._lock:
                    if not self._over.is_set():
                        self._claim()
            except Exception as error:  # noqa: BLE001 - a storage that is away for a while; the trials see it, too
                _warn(f"the study cannot be written to: {reason_of(error)}")
            if self._over.wait(_BEAT_EVERY):
                return

    def _look_up(self, run: TrackedRun) -> None:
        if self.run_id is not None:
            return
        try:
            known = run.run_id
        except (TimeoutError, TailraceError):
            return
        self._study.set_user_attr(_PARENT, {"run": run.id, "run_id": known})  # "" where tracking is off
        self.run_id = known or None

    def _known(self) -> str | None:
        """MLflow's id of the run that the study has had before; None: it has had none that can be found."""
        attribute = self._study.user_attrs.get(_PARENT) or {}
        if attribute.get("run_id") is not None or not attribute.get("run"):
            return attribute.get("run_id") or None
        found = self._tracker.find(f"tags.`tailrace.run` = '{attribute['run']}'")
        return found[0] if found else None


def asked_to_stop(study: Study) -> bool:
    """Whether the owner of a study's run was asked to stop it."""
    return bool(study.user_attrs.get(_STOP))


def await_run_id(study: Study) -> str | None:
    """MLflow's id of a study's parent run, once its owner knows it; None where tracking is off.

    Raises:
        TailraceError: That takes too long.
    """
    deadline = time.monotonic() + _JOINED_WITHIN
    while True:
        known = (study.user_attrs.get(_PARENT) or {}).get("run_id")
        if known is not None:
            return known or None
        if time.monotonic() > deadline:
            raise TailraceError(
                f"study {study.study_name!r} is at work in another process, whose MLflow run is not known after "
                f"{_JOINED_WITHIN:.0f} s: can MLflow be reached from there?"
            )
        time.sleep(0.2)


def _warn(text: str) -> None:
    logging.getLogger("tailrace").warning("tailrace: %s", " ".join(text.split()))


def _lives(owner: Any) -> bool:
    if not isinstance(owner, dict) or is_gone(owner.get("process")):
        return False
    here = owner.get("process") == this_process()
    return not here and time.time() - owner.get("beat", 0.0) < _GONE_AFTER
