"""`OptunaRunner` in one process, with real Optuna and a real store."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import Store, eventually, tracking
from helpers.searches import SPACE, parent_runs, trials_below
from tailrace import SettingsError, Tracker
from tailrace.hpo import OptunaRunner
from tailrace_agent.errors import Unavailable


@pytest.mark.slow
def test_a_search_leaves_a_parent_and_a_run_for_each_trial(tracker: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        for step in range(3):
            tracker.log(step=step, loss=params["x"] ** 2 + step)
        if trial.number == 1:
            raise ValueError("it diverges")
        if trial.number == 2:
            raise optuna.TrialPruned("enough")
        return 1.0 - params["x"] ** 2

    runner = OptunaRunner("digits", metric="acc", seed=0, tracker=tracker)
    result = runner.optimize(objective, 6, SPACE, catch=ValueError)

    assert result.counts == (6, 4, 1, 1, 0)
    assert result.best_value == result.study.best_value
    assert repr(result).startswith("<HpoResult 'digits': 6 trials, 4 completed, 1 pruned, 1 failed; best acc ")
    parent = Store(sqlite_uri, str(result.parent_run_id))
    assert parent.status == "FINISHED"
    assert parent.run.data.metrics == {
        "best_acc": result.best_value,
        "best_trial_number": result.best_trial_number,
        "total_trials": 6,
        "completed_trials": 4,
        "pruned_trials": 1,
        "failed_trials": 1,
    }
    best = {f"best_hpo/{name}": str(value) for name, value in result.best_params.items()}
    assert {name: value for name, value in parent.params.items() if name.startswith("best_hpo/")} == best
    assert parent.params["study_name"] == "digits"
    assert parent.artifacts() == [
        "hpo_optimization_history.html", "hpo_parallel_coordinate.html", "hpo_param_importances.html",
        "hpo_trials_history.csv",
    ]  # fmt: skip
    table = parent.client.download_artifacts(parent.run_id, "hpo_trials_history.csv", str(tmp_path))
    rows = list(csv.DictReader(Path(table).read_text().splitlines()))
    assert [row["state"] for row in rows] == ["COMPLETE", "FAIL", "PRUNED", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert {"number", "value", "params_x", "params_kind"} <= rows[0].keys()
    assert len(result.trials) == 6

    children = trials_below(sqlite_uri, result.parent_run_id)
    assert sorted(children) == [f"trial_{number:04d}" for number in range(6)]
    assert [children[name].run_id for name in sorted(children)] == list(result.child_runs)
    assert {name: child.status for name, child in children.items() if child.status != "FINISHED"} == {
        "trial_0001": "FAILED"
    }
    first, failed, pruned = (children[f"trial_000{number}"] for number in range(3))
    trial = result.study.trials[0]
    assert first.params == {
        "hpo/x": str(trial.params["x"]), "hpo/kind": trial.params["kind"], "trial_number": "0", "study_name": "digits"
    }  # fmt: skip
    assert first.run.data.metrics["trial/acc"] == trial.value
    assert first.run.data.metrics["trial/number"] == 0
    assert len(first.history("loss")) == 3
    assert first.tags["trial.state"] == "COMPLETE"
    assert (failed.tags["trial.state"], failed.tags["error.type"]) == ("FAIL", "ValueError")
    assert failed.tags["error.message"] == "it diverges"
    assert (pruned.tags["trial.state"], pruned.tags["trial.pruned"]) == ("PRUNED", "enough")
    assert "trial/acc" not in pruned.run.data.metrics


def test_what_a_trial_logs_is_reported_to_the_pruner_and_ends_it(tracker: Tracker, sqlite_uri: str) -> None:
    """The loss gets smaller where the study maximizes: the pruner has to see it the other way around."""
    ended: list[int] = []

    def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        for step in range(5):
            tracker.log({"val": {"loss": float(trial.number)}}, step)
        ended.append(trial.number)
        return 1.0

    pruner = {"name": "median", "n_startup_trials": 2, "n_warmup_steps": 1}
    runner = OptunaRunner("digits", metric="acc", pruner=pruner, prune_on="val/loss", seed=0, tracker=tracker)
    result = runner.optimize(objective, 5, SPACE)
    assert ended == [0, 1]
    assert result.counts == (5, 2, 3, 0, 0)
    assert result.study.trials[3].intermediate_values == {0: -3.0, 1: -3.0}
    pruned = trials_below(sqlite_uri, result.parent_run_id)["trial_0003"]
    assert pruned.history("val/loss") == [(0, 3.0), (1, 3.0)]
    assert pruned.tags["trial.pruned"] == "val/loss 3 at step 1"


@pytest.mark.slow
def test_trials_in_threads_log_each_to_its_own_run(tracker: Tracker, sqlite_uri: str) -> None:
    def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        for step in range(20):
            tracker.log(step=step, number=trial.number)
        return params["x"]

    result = OptunaRunner("threads", seed=0, tracker=tracker).optimize(objective, 8, SPACE, n_jobs=4)
    assert result.counts.completed == 8
    children = trials_below(sqlite_uri, result.parent_run_id)
    for number in range(8):
        history = children[f"trial_{number:04d}"].history("number")
        assert history == [(step, float(number)) for step in range(20)]


def test_an_exception_that_is_not_caught_is_the_users_own_and_ends_the_search_as_failed(
    tracker: Tracker, sqlite_uri: str
) -> None:
    error = ValueError("mine")

    def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        if trial.number == 1:
            raise error
        return 1.0

    with pytest.raises(ValueError, match="mine") as raised:
        OptunaRunner("fails", metric="acc", tracker=tracker).optimize(objective, 5, SPACE)
    assert raised.value is error
    (parent,) = parent_runs(sqlite_uri)
    store = Store(sqlite_uri, parent)
    assert (store.status, store.tags["error.type"]) == ("FAILED", "ValueError")
    assert store.run.data.metrics["total_trials"] == 2
    assert store.run.data.metrics["failed_trials"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_a_search_that_is_interrupted_says_so_and_is_complete(
    tracker: Tracker, sqlite_uri: str, error: BaseException, tmp_path: Path
) -> None:
    def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        tracker.log(step=0, loss=1.0)
        if trial.number == 1:
            raise error
        return 1.0

    storage = str(tmp_path / "study.journal")
    with pytest.raises(type(error)):
        OptunaRunner("stopped", metric="acc", storage=storage, tracker=tracker).optimize(objective, 5, SPACE)
    (parent,) = parent_runs(sqlite_uri)
    assert Store(sqlite_uri, parent).status == "KILLED"
    children = trials_below(sqlite_uri, parent)
    assert {name: child.status for name, child in children.items()} == {
        "trial_0000": "FINISHED",
        "trial_0001": "KILLED",
    }
    assert children["trial_0001"].history("loss") == [(0, 1.0)]
    assert children["trial_0001"].tags["error.type"] == type(error).__name__

    def calm(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        return 2.0

    result = OptunaRunner("stopped", metric="acc", storage=storage, tracker=tracker).optimize(calm, 4, SPACE)
    assert (result.parent_run_id, result.counts) == (parent, (4, 3, 0, 1, 0))
    assert Store(sqlite_uri, parent).status == "FINISHED"


def test_with_tracking_off_the_search_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking(f"sqlite:///{tmp_path}/none.db", agent="off") as tracker:

        def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
            for step in range(5):
                tracker.log(step=step, loss=float(trial.number))
            return 1.0

        pruner = {"name": "median", "n_startup_trials": 2}
        runner = OptunaRunner("off", metric="acc", pruner=pruner, prune_on="loss", tracker=tracker)
        result = runner.optimize(objective, 4, SPACE)
    assert (result.parent_run_id, result.child_runs) == (None, ())
    assert result.counts == (4, 2, 2, 0, 0)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "maximise"}, "direction is 'maximise'; did you mean 'maximize'"),
        ({"sampler": "tpee"}, "sampler is 'tpee'; did you mean"),
        ({"pruner": {"name": "median", "n_start": 3}}, "pruner median: .*n_start"),
        ({"prune_direction": "minimize"}, "prune_direction is given, and prune_on is not"),
    ],
)
def test_what_is_wrong_with_a_runner_is_one_error_at_the_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        OptunaRunner("wrong", **options)


def test_nothing_begins_when_the_search_space_has_a_typo(tracker: Tracker, sqlite_uri: str) -> None:
    called: list[int] = []
    runner = OptunaRunner("typo", tracker=tracker)
    with pytest.raises(SettingsError, match="did you mean 'float'"):
        runner.optimize(lambda trial, params: called.append(1), 3, {"lr": {"type": "flot", "low": 0, "high": 1}})
    with pytest.raises(SettingsError, match="the search would never end"):
        runner.optimize(lambda trial, params: called.append(1), None, SPACE)
    assert (called, parent_runs(sqlite_uri)) == ([], [])


@pytest.mark.parametrize(
    ("direction", "metric", "on", "given", "sign"),
    [
        ("maximize", "val_f1", "val_loss", None, -1),
        ("minimize", "val_loss", "val_loss", None, 1),
        ("maximize", "val_loss", "val_loss", None, 1),
        ("minimize", "val_loss", "val_accuracy", None, -1),
        ("minimize", "val_loss", "val_accuracy", "minimize", 1),
        ("minimize", "val_loss", "bias", None, 1),
        ("maximize", "val_accuracy", "train/loss_step", None, -1),
        ("maximize", "val_accuracy", "val/logloss_round", None, -1),
        ("maximize", "f1", "epoch/val_rmse", None, -1),
    ],
)
def test_in_which_direction_the_pruner_sees_a_metric(
    direction: str, metric: str, on: str, given: str | None, sign: int, tracker: Tracker
) -> None:
    runner = OptunaRunner(
        "s",
        direction=direction,
        metric=metric,
        prune_on=on,
        prune_direction=given,
        pruner={"name": "median", "n_startup_trials": 5},
        tracker=tracker,
    )
    result = runner.optimize(lambda trial, params: _logged(tracker, on), 1, SPACE)
    assert result.study.trials[0].intermediate_values == {0: sign * 2.0}


def _logged(tracker: Tracker, name: str) -> float:
    tracker.log({name: 2.0}, 0)
    return 1.0


@pytest.mark.slow
def test_a_journal_that_is_removed_on_the_way_is_one_error_and_an_objectives_own_is_its_own(
    tracker: Tracker, sqlite_uri: str, tmp_path: Path
) -> None:
    journal = tmp_path / "study.journal"

    def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
        if trial.number == 2:
            journal.unlink()
        if trial.number == 5:
            raise FileNotFoundError("my own data")
        return float(params["x"])

    runner = OptunaRunner("digits", metric="acc", storage=journal, seed=0, tracker=tracker)
    kept = tmp_path / "kept"
    kept.hardlink_to(journal)
    with pytest.raises(Unavailable, match=r"No such file .* once it is there again") as raised:
        runner.optimize(objective, 6, SPACE)
    assert raised.value.__suppress_context__
    kept.rename(journal)  # the same file: the search goes on
    with pytest.raises(FileNotFoundError, match="my own data"):
        runner.optimize(objective, 6, SPACE)
    (parent,) = parent_runs(sqlite_uri)
    assert Store(sqlite_uri, parent).status == "FAILED"
    found = trials_below(sqlite_uri, parent)
    assert sorted(found) == [f"trial_{number:04d}" for number in range(6)]


def test_a_search_whose_run_is_asked_to_stop_begins_no_trial_and_ends_those_that_report(sqlite_uri: str) -> None:
    client = MlflowClient(sqlite_uri)
    with tracking(sqlite_uri, stop_interval=0.1) as sdk:

        def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
            if trial.number:
                sdk.log(step=0, loss=1.0)
                (found,) = client.search_runs(["0"], "attributes.run_name = 'asked'")
                client.set_tag(found.info.run_id, "tailrace.stop", "ada: enough")
                eventually(sdk.should_stop)
                for step in range(1, 1000):
                    sdk.log(step=step, loss=1.0)
                raise AssertionError("it went on")
            return params["x"]

        result = OptunaRunner(
            "asked", prune_on="loss", pruner={"name": "median", "n_startup_trials": 5}, seed=0, tracker=sdk
        ).optimize(objective, 50, SPACE)
    assert result.counts == (2, 1, 1, 0, 0)
    (parent_id,) = parent_runs(sqlite_uri)
    parent = Store(sqlite_uri, parent_id)
    assert parent.status == "FINISHED"
    assert "ada: enough" in parent.tags["tailrace.stopped_by"]
    cut = trials_below(sqlite_uri, parent_id)["trial_0001"]
    assert (cut.status, cut.tags["trial.state"]) == ("FINISHED", "PRUNED")
    assert cut.tags["trial.pruned"] == "asked to stop, at step 1"


def test_of_a_search_in_threads_a_trial_that_reports_nothing_goes_to_its_end(sqlite_uri: str) -> None:
    client = MlflowClient(sqlite_uri)
    with tracking(sqlite_uri, stop_interval=0.1) as sdk:

        def objective(trial: optuna.Trial, params: Mapping[str, Any]) -> float:
            if trial.number == 0:
                found = eventually(lambda: client.search_runs(["0"], "attributes.run_name = 'asked'"))
                client.set_tag(found[0].info.run_id, "tailrace.stop", "ada: enough")
            eventually(sdk.should_stop)
            return params["x"]

        result = OptunaRunner("asked", seed=0, tracker=sdk).optimize(objective, 50, SPACE, n_jobs=2)
    assert result.counts == (2, 2, 0, 0, 0)
