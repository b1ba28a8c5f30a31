"""Runs of trials whose process was killed between the study's word and MLflow's: `tailrace.hpo.reconciled`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from helpers.searches import SPACE, trials_below
from tailrace import Tracker
from tailrace.hpo import OptunaRunner
from tailrace.hpo.trials import TrialRuns


class _Killed(BaseException):
    """Stands in for the end of the process: nothing of the trial's end is done after it."""


def _objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
    if trial.number == 1:
        trial.report(1.0, 4)
        raise optuna.TrialPruned
    return 1.0


def test_whoever_goes_on_with_the_study_ends_the_run_as_the_trial_has_ended(
    tracker: Tracker, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runner() -> OptunaRunner:
        return OptunaRunner("left", metric="acc", storage=str(tmp_path / "left.journal"), tracker=tracker)

    def told(self: TrialRuns, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.number == 1:
            raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(TrialRuns, "told", told)
        with pytest.raises(_Killed):
            runner().optimize(_objective, 2, SPACE)
    study = optuna.load_study(study_name="left", storage=runner()._storage)
    parent = study.user_attrs["tailrace.parent"]["run_id"]
    before = trials_below(sqlite_uri, parent)
    assert {child.status for child in before.values()} == {"KILLED"}
    runner().optimize(_objective, 3, SPACE)
    after = trials_below(sqlite_uri, parent)
    assert {name: (child.status, child.tags.get("trial.state")) for name, child in after.items()} == {
        "trial_0000": ("FINISHED", "COMPLETE"),
        "trial_0001": ("FINISHED", "PRUNED"),
        "trial_0002": ("FINISHED", "COMPLETE"),
    }
    assert after["trial_0001"].tags["trial.pruned"] == "at step 4"


def test_a_trial_that_failed_stays_so(tracker: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    def fails(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        raise ValueError("no")

    def search(n_trials: int) -> str:
        runner = OptunaRunner("fails", metric="acc", storage=str(tmp_path / "fails.journal"), tracker=tracker)
        return str(runner.optimize(fails, n_trials, SPACE, catch=ValueError).parent_run_id)

    search(1)
    children = trials_below(sqlite_uri, search(2))
    assert {child.status for child in children.values()} == {"FAILED"}
