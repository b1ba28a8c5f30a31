"""A search that a file describes, by several processes: what the command line does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tailrace.hpo.config import read_search
from tailrace.hpo.parent import Parent
from tailrace.hpo.progress import Progress
from tailrace.hpo.result import result_of
from tailrace.hpo.storage import gone_away, masked, need_optuna, open_storage
from tailrace.hpo.studies import chosen, fail_the_dead, open_study
from tailrace.hpo.tracking import SearchTracker
from tailrace.hpo.workers import Crew, job_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from tailrace.hpo.config import SearchConfig
    from tailrace.hpo.result import HpoResult
    from tailrace.hpo.tracking import Status

__all__ = ["search"]


def search(
    config: str | os.PathLike[str], overrides: Mapping[str, Any], *, workers: int = 1, aside: bool = False
) -> HpoResult:
    """Searches as a file says.

    Args:
        config: The file.
        overrides: Values in place of its own, by their dotted names.
        workers: Processes that run trials.
        aside: Progress, and what the objective prints, go to standard error.

    Returns:
        What the study has come to.

    Raises:
        SettingsError: The configuration is wrong. Nothing has begun then.
        Unavailable: The storage does not answer.
    """
    plan, tracking, folder = read_search(config, overrides)
    optuna = need_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler, pruner = chosen(plan.sampler, "sampler", plan.seed), chosen(plan.pruner, "pruner")
    storage = open_storage(plan.kept_in)
    study, created = open_study(
        plan.study_name, plan.direction, storage, sampler, pruner, resume=True, described=plan.kept_in
    )
    fail_the_dead(study)
    settings = tracking.tracker_settings()
    tracker = SearchTracker(None, settings, tags=tracking.tags)
    progress = Progress(study, plan.metric, plan.n_trials, sys.stderr if aside else sys.stdout)
    parent = Parent(tracker, study, created=created, metric=plan.metric, params=_params(plan))
    job = job_of(plan, str(folder), settings=settings, tags=tracking.tags, apart=parent.run is None)
    status: Status = "KILLED"
    failed: Exception | None = None
    crew = Crew(study, lambda: parent.asked_to_stop, job, workers, progress, sys.stderr.fileno() if aside else None)
    try:
        crew.work()
        status = "FINISHED"
    except Exception as error:
        status, failed = "FAILED", error
        if (away := gone_away(error, plan.kept_in)) is not None:
            failed = away
            raise away from None
        raise
    finally:
        progress.close()
        parent.finish(status, failed, killed=crew.killed > 0)
    return result_of(study, plan.metric, parent.run_id)


def _params(plan: SearchConfig) -> dict[str, Any]:
    params = {
        "study_name": plan.study_name,
        "direction": plan.direction,
        "metric": plan.metric,
        "sampler": plan.sampler,
        "pruner": plan.pruner,
        "prune_on": plan.prune_on,
        "objective": plan.objective,
        "storage": masked(plan.kept_in),
    }
    return {name: value for name, value in params.items() if value is not None}
