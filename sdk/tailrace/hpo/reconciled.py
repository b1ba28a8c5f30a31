"""Trials that are over in the study, and whose runs are not so in MLflow: their process was killed in between.

* The study is right. A trial that it has as COMPLETE or PRUNED went to its end, and its run has all that it logged.
* Whoever ends the study next ends such a run as its trial would have.
* A run that is still RUNNING is waited for where its process is known to be dead: the agent is about to end it, and the
  last word is to be the right one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from tailrace.hpo.trials import ATTRIBUTE, tags_of
from tailrace.hpo.whereabouts import is_gone, this_process

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from optuna import Study

    from tailrace.hpo.tracking import SearchTracker

__all__ = ["end_what_is_over"]

_KILLED_WITHIN: Final = 20.0
"""Seconds in which an agent has ended the run of a process that is dead."""
_LOOK_EVERY: Final = 0.5


def end_what_is_over(
    study: Study, tracker: SearchTracker, parent_run_id: str, earlier: Collection[int], *, killed: bool
) -> int:
    """Ends runs below the parent's as their trials have ended; how many.

    Args:
        study: The study.
        tracker: Where the runs are.
        parent_run_id: MLflow's id of the run above.
        earlier: Numbers of trials that were over when this search began.
        killed: Whether trials of other processes since then are to be looked at, too. This one has ended its own.

    Raises:
        TailraceError: MLflow is away.
    """
    over = _over(study, earlier, killed=killed)
    if not over:
        return 0
    deadline = time.monotonic() + _KILLED_WITHIN
    while True:
        below = tracker.not_finished(parent_run_id)
        found = [(record, over[mark]) for record in below if (mark := _mark(record)) in over]
        awaited = [trial for record, trial in found if _is_to_be_killed(record, trial)]
        if not awaited or time.monotonic() > deadline:
            break
        time.sleep(_LOOK_EVERY)
    ended = 0
    for record, trial in found:
        if record.status in ("KILLED", "FAILED"):
            run = tracker.go_on_with_trial(record.run_id)
            run.set_tags(tags_of(trial))
            run.end("FINISHED")
            ended += 1
    return ended


def _over(study: Study, earlier: Collection[int], *, killed: bool) -> dict[str, Any]:
    """Trials that went to their end, by tailrace's ids of their runs."""
    from optuna.trial import TrialState

    here = this_process()
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    known = [(trial, trial.user_attrs.get(ATTRIBUTE)) for trial in trials]
    return {
        attribute["run"]: trial
        for trial, attribute in known
        if isinstance(attribute, dict)
        and attribute.get("run")
        and (trial.number in earlier or (killed and attribute.get("process") != here))
    }


def _mark(record: Any) -> str:
    tags: Mapping[str, str] = record.tags
    return tags.get("tailrace.run", "")


def _is_to_be_killed(record: Any, trial: Any) -> bool:
    return record.status == "RUNNING" and is_gone(trial.user_attrs[ATTRIBUTE].get("process"))
