"""The run above all trials: one, whoever goes on with its study, and with all of its counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from helpers.sdk_tools import Store
from helpers.searches import SPACE, parent_runs, trials_below
from tailrace import SettingsError, Tracker
from tailrace.hpo import OptunaRunner


@pytest.mark.slow
def test_a_study_is_gone_on_with_in_the_same_run_and_with_all_of_its_counts(
    tracker: Tracker, sqlite_uri: str, tmp_path: Path
) -> None:
    storage = str(tmp_path / "study.journal")

    def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        return float(trial.number)

    first = OptunaRunner("again", metric="acc", storage=storage, tracker=tracker).optimize(objective, 3, SPACE)
    runner = OptunaRunner("again", metric="acc", storage=storage, tracker=tracker)
    second = runner.optimize(objective, 5, SPACE)
    assert second.parent_run_id == first.parent_run_id
    assert parent_runs(sqlite_uri) == [first.parent_run_id]
    assert second.counts == (5, 5, 0, 0, 0)
    assert len(trials_below(sqlite_uri, first.parent_run_id)) == 5
    parent = Store(sqlite_uri, str(first.parent_run_id))
    assert parent.status == "FINISHED"
    assert (parent.run.data.metrics["total_trials"], parent.run.data.metrics["best_acc"]) == (5, 4.0)
    # MLflow lets no param change: the parameters that are the best now are in tags of the same names.
    assert parent.params["best_hpo/x"] == str(first.best_params["x"])
    assert parent.tags["best_hpo/x"] == str(second.best_params["x"])
    third = runner.optimize(objective, 5, SPACE)
    assert third.counts == second.counts
    with pytest.raises(SettingsError, match=r"study 'again' is in .*study\.journal already: go on with it by resume"):
        runner.optimize(objective, 6, SPACE, resume=False)
    with pytest.raises(SettingsError, match="is there to maximize, not to minimize"):
        OptunaRunner("again", "minimize", storage=storage, tracker=tracker).optimize(objective, 6, SPACE)


def test_within_an_active_run_the_search_is_below_it(tracker: Tracker, sqlite_uri: str) -> None:
    runner = OptunaRunner("inner", tracker=tracker)
    with tracker.start_run(run_name="all") as outer:
        runner.optimize(lambda trial, params: 1.0, 1, SPACE)
        result = runner.optimize(lambda trial, params: 1.0, 2, SPACE)
        tracker.log(step=0, after=1.0)
    assert list(trials_below(sqlite_uri, outer.run_id)) == ["inner"]
    assert len(trials_below(sqlite_uri, result.parent_run_id)) == 2
    assert Store(sqlite_uri, outer).history("after") == [(0, 1.0)]


def test_a_storage_that_goes_away_takes_nothing_with_it(
    tracker: Tracker, sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    error = RuntimeError("it diverges")

    class Breaks(optuna.storages.InMemoryStorage):
        """A storage that is away from some moment on."""

        away = False

        def get_all_trials(self, *args: Any, **kwargs: Any) -> Any:
            if self.away:
                raise OSError("connection refused")
            return super().get_all_trials(*args, **kwargs)

    storage = Breaks()

    def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        tracker.log(step=0, loss=1.0)
        storage.away = True
        raise error

    runner = OptunaRunner("away", metric="acc", storage=storage, sampler="random", tracker=tracker)
    with pytest.raises(RuntimeError) as raised:
        runner.optimize(objective, 2, SPACE)
    assert raised.value is error
    assert "what the search has come to could not be written: connection refused" in caplog.text
    (parent,) = parent_runs(sqlite_uri)
    assert Store(sqlite_uri, parent).status == "FAILED"
    assert trials_below(sqlite_uri, parent)["trial_0000"].history("loss") == [(0, 1.0)]
