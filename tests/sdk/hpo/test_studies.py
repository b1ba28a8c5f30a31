"""Studies: how far they are, whose trials are dead, and what samplers and pruners are called."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from typing import Any

import optuna
import psutil
import pytest

from tailrace import SettingsError
from tailrace.hpo.studies import best_of, chosen, count, fail_the_dead
from tailrace.hpo.trials import ATTRIBUTE
from tailrace.hpo.whereabouts import this_process


def _dead() -> dict[str, Any]:
    """A process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        began = psutil.Process(process.pid).create_time()
    return {**this_process(), "pid": process.pid, "began": began}


def test_counts_are_those_of_the_study_and_leave_out_what_waits() -> None:
    study = optuna.create_study()
    for state in ("COMPLETE", "PRUNED", "PRUNED", "FAIL", "WAITING"):
        value = 1.0 if state == "COMPLETE" else None
        study.add_trial(optuna.create_trial(state=optuna.trial.TrialState[state], value=value))
    study.enqueue_trial({})
    assert count(study) == (4, 1, 2, 1, 0)
    assert best_of(study).number == 0
    assert best_of(optuna.create_study()) is None


@pytest.mark.parametrize(
    ("process", "state"),
    [
        (_dead, "FAIL"),
        (this_process, "RUNNING"),
        (lambda: {**this_process(), "began": 1.0}, "FAIL"),  # another process has its number now
        (lambda: {**this_process(), "host": "elsewhere", "pid": 1}, "RUNNING"),
    ],
)
def test_a_trial_is_fail_when_its_process_is_known_to_be_gone(process: Any, state: str) -> None:
    study = optuna.create_study()
    study.ask().set_user_attr(ATTRIBUTE, {"run": "a", "process": process()})
    assert fail_the_dead(study) == (state == "FAIL")
    assert study.trials[0].state.name == state


def test_a_trial_of_nobody_is_given_up_after_a_minute() -> None:
    study = optuna.create_study()
    study.ask()
    assert fail_the_dead(study) == 0
    long_ago = dt.datetime.now() - dt.timedelta(minutes=2)  # noqa: DTZ005 - as Optuna's
    old = optuna.create_trial(state=optuna.trial.TrialState.RUNNING)
    old.datetime_start = long_ago
    study.add_trial(old)
    assert fail_the_dead(study) == 1
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "FAIL"]


@pytest.mark.parametrize(
    ("given", "kind", "made"),
    [
        (None, "sampler", "TPESampler"),
        ("random", "sampler", "RandomSampler"),
        ("TPESampler", "sampler", "TPESampler"),
        ({"name": "cma_es", "n_startup_trials": 3}, "sampler", "CmaEsSampler"),
        (None, "pruner", "NoneType"),
        ("median", "pruner", "MedianPruner"),
        ({"name": "SuccessiveHalvingPruner", "min_resource": 2}, "pruner", "SuccessiveHalvingPruner"),
    ],
)
def test_samplers_and_pruners_are_known_by_their_names(given: Any, kind: str, made: str) -> None:
    assert type(chosen(given, kind, seed=3)).__name__ == made


def test_an_object_of_optunas_stays_as_it_is() -> None:
    sampler = optuna.samplers.RandomSampler()
    assert chosen(sampler, "sampler", seed=3) is sampler


@pytest.mark.parametrize(
    ("given", "message"), [("tpee", "did you mean 'tpe'"), ({"name": "tpe", "n_start": 1}, "sampler tpe: .*n_start")]
)
def test_what_is_wrong_with_one_is_said(given: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        chosen(given, "sampler")
