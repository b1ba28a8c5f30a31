"""What a search has come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tailrace.hpo.reports import trials_table
from tailrace.hpo.studies import best_of, count

if TYPE_CHECKING:
    import pandas as pd
    from optuna import Study

    from tailrace.hpo.studies import Counts

__all__ = ["HpoResult", "result_of"]


@dataclass(frozen=True, kw_only=True, repr=False)
class HpoResult:
    """What a search has come to, as its study has it.

    Attributes:
        study: Optuna's.
        metric: What was optimized.
        best_value: The best value; None without a trial that was completed.
        best_params: The parameters of the best trial.
        best_trial_number: Its number.
        counts: How many trials there are: `total`, `completed`, `pruned`, `failed`, `running`.
        parent_run_id: MLflow's id of the run above the trials; None where MLflow has not created it.
        child_runs: MLflow's ids of the trials' runs, as far as they are known, in the order of the trials.

    Example:
        >>> result = runner.optimize(objective, n_trials=20, search_space=space)
        >>> result.best_params
        {'lr': 0.013, 'layers': 2}
    """

    study: Study
    metric: str
    best_value: float | None
    best_params: dict[str, Any]
    best_trial_number: int | None
    counts: Counts
    parent_run_id: str | None
    child_runs: tuple[str, ...] = field(default=())

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial: number, value, times, `params_…`, state."""
        return trials_table(self.study)

    def __repr__(self) -> str:
        counts = self.counts
        best = "none completed"
        if self.best_value is not None:
            best = f"best {self.metric} {self.best_value:.5g} of trial {self.best_trial_number}: {self.best_params}"
        return (
            f"<HpoResult {self.study.study_name!r}: {counts.total} trials, {counts.completed} completed, "
            f"{counts.pruned} pruned, {counts.failed} failed; {best}>"
        )


def result_of(study: Study, metric: str, parent_run_id: str | None, child_runs: tuple[str, ...] = ()) -> HpoResult:
    """What a study has come to."""
    best = best_of(study)
    return HpoResult(
        study=study,
        metric=metric,
        best_value=None if best is None else best.value,
        best_params={} if best is None else dict(best.params),
        best_trial_number=None if best is None else best.number,
        counts=count(study),
        parent_run_id=parent_run_id,
        child_runs=child_runs,
    )
