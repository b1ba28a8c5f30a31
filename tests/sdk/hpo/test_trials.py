"""One trial as a run, and what an objective may return."""

from __future__ import annotations

import contextlib
from typing import Any

import optuna
import pytest

from helpers.searches import SPACE, parent_runs, trials_below
from tailrace import Tracker
from tailrace.hpo import OptunaRunner


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "has returned None for 'acc': return a number"),
        (float("nan"), "has returned NaN for 'acc'"),
        ({"ac": 1.0}, "has returned no 'acc', which is optimized; did you mean 'ac'"),
    ],
)
def test_a_value_that_is_none_makes_the_trial_fail_in_both(
    tracker: Tracker, sqlite_uri: str, returned: Any, message: str
) -> None:
    runner = OptunaRunner("bad", metric="acc", tracker=tracker)
    result = runner.optimize(lambda trial, params: returned, 1, SPACE, catch=ValueError)
    assert result.counts == (1, 0, 0, 1, 0)
    assert (result.best_value, result.best_params, result.best_trial_number) == (None, {}, None)
    child = trials_below(sqlite_uri, result.parent_run_id)["trial_0000"]
    assert child.status == "FAILED"
    assert message in child.tags["error.message"]


def test_an_objective_may_return_several_metrics(tracker: Tracker, sqlite_uri: str) -> None:
    runner = OptunaRunner("many", metric="acc", tracker=tracker)
    result = runner.optimize(lambda trial, params: {"acc": 0.5, "loss": 2.0}, 1, SPACE)
    assert result.best_value == 0.5
    metrics = trials_below(sqlite_uri, result.parent_run_id)["trial_0000"].run.data.metrics
    assert metrics == {"trial/acc": 0.5, "trial/loss": 2.0, "trial/number": 0.0}


@pytest.mark.parametrize("pruned", [False, True])
def test_a_trial_is_over_in_mlflow_only_when_it_is_in_optuna(
    tracker: Tracker, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, pruned: bool
) -> None:
    """A worker that is killed while it waits for the storage would leave a FINISHED run of a trial that is FAIL."""
    storage = optuna.storages.InMemoryStorage
    heard = storage.set_trial_state_values

    def away(self: Any, trial_id: int, state: Any, values: Any = None) -> bool:
        if trial_id == 1 and state.is_finished():
            raise OSError("no connection")
        return bool(heard(self, trial_id, state, values))

    def objective(trial: Any, params: Any) -> float:
        if pruned:
            raise optuna.TrialPruned("enough")
        return 0.5

    monkeypatch.setattr(storage, "set_trial_state_values", away)
    with contextlib.suppress(OSError, AssertionError):  # Optuna's own, after that
        OptunaRunner("away", metric="acc", tracker=tracker).optimize(objective, 3, SPACE)
    (parent,) = parent_runs(sqlite_uri)
    runs = trials_below(sqlite_uri, parent)
    state = "PRUNED" if pruned else "COMPLETE"
    assert {name: (run.status, run.tags.get("trial.state")) for name, run in runs.items()} == {
        "trial_0000": ("FINISHED", state),
        "trial_0001": ("KILLED", None),
    }
