"""What runs and experiments show of themselves: what is known now, without a wait."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace import Tracker
from tailrace._runs.run_part import core_of
from tailrace_agent.ipc.status import RunStatus


def knows(monkeypatch: pytest.MonkeyPatch, run: Any, **status: Any) -> None:
    """MLflow has told that of a run."""
    known = RunStatus(run=1, **status)
    monkeypatch.setattr(core_of(run), "seen", known)
    monkeypatch.setattr(core_of(run), "known", lambda: known)


def test_a_run_shows_tailraces_id_until_mlflows_is_known_and_a_link_where_there_is_one(
    off: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = off.start_run(run_name="base")
    assert repr(run) == f"<tailrace.Run 'base': RUNNING, id={run.id}, tracking is off>"
    knows(monkeypatch, run, run_id="abc", experiment_id="7")
    assert repr(run) == "<tailrace.Run 'base': RUNNING, run_id=abc, tracking is off>"
    knows(monkeypatch, run, run_id="abc", url="http://host/#/abc")
    assert repr(run) == "<tailrace.Run 'base': RUNNING, http://host/#/abc, tracking is off>"


def test_the_info_of_a_run_has_what_scripts_read(off: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    run = off.start_run(run_name="base")
    knows(monkeypatch, run, run_id="abc", experiment_id="7")
    info = run.info
    assert (info.run_id, info.run_name, info.experiment_id, info.status) == ("abc", "base", "7", "RUNNING")
    assert info.start_time == core_of(run).spec.start_time
    assert repr(info) == "<tailrace.RunInfo 'base': RUNNING, run_id=abc, experiment_id=7>"
    knows(monkeypatch, run, run_id="abc")
    assert info.experiment_id == "", "a text, whatever MLflow has told"


def test_an_experiment_that_is_known_by_name_gets_its_id_from_a_run_of_it(
    off: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = off.set_experiment("digits")
    with pytest.raises(LookupError, match="the id of experiment 'digits' is known once a run of it has been started"):
        experiment.experiment_id  # noqa: B018 - asking is what raises
    with off.start_run(experiment_name="letters"), pytest.raises(LookupError, match="digits"):
        experiment.experiment_id  # noqa: B018
    with off.start_run() as run:
        knows(monkeypatch, run, run_id="abc", experiment_id="7")
        assert experiment.experiment_id == "7"
    assert (experiment.experiment_id, experiment.name) == ("7", "digits"), "kept after the run"


def test_an_experiment_that_is_known_by_id_asks_nobody(off: Tracker) -> None:
    experiment = off.set_experiment(experiment_id="9")
    assert (experiment.experiment_id, experiment.name) == ("9", None)
    assert repr(experiment) == "<tailrace.ExperimentInfo: experiment_id=9>"
