"""The core of a tracker: its settings, what it shows other programs, and which of all trackers is the module's."""

from __future__ import annotations

import os

import pytest

import tailrace
from helpers.sdk_tools import tracking
from tailrace import SettingsError, Tracker
from tailrace._api.tracker_core import module_core, tracker_cores
from tailrace._api.tracker_part import tracker_core_of


def test_arguments_are_stronger_than_what_the_tracker_was_given_and_none_is_no_argument(off: Tracker) -> None:
    core = tracker_core_of(off)
    assert core.settings({"agent": None}).agent == "off"
    assert core.settings({"agent": "thread"}).agent == "thread"
    with pytest.raises(SettingsError, match="nice"):
        core.settings({"nice": 99})


def test_only_the_modules_own_tracker_sets_variables_for_other_programs(
    off: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "5")
    core = tracker_core_of(off)
    core.export(MLFLOW_EXPERIMENT_NAME="digits", MLFLOW_EXPERIMENT_ID=None)
    assert ("MLFLOW_EXPERIMENT_NAME" in os.environ, os.environ["MLFLOW_EXPERIMENT_ID"]) == (False, "5")
    monkeypatch.setattr(core, "of_module", True)
    core.export(MLFLOW_EXPERIMENT_NAME="digits", MLFLOW_EXPERIMENT_ID=None)
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "digits"
    # Emptied, not deleted: `requests` walks the variables in other threads. MLflow takes an empty one for none.
    assert os.environ["MLFLOW_EXPERIMENT_ID"] == ""
    core.export(MLFLOW_EXPERIMENT_NAME=None, MLFLOW_EXPERIMENT_ID="6")
    assert ("MLFLOW_EXPERIMENT_NAME" in os.environ, os.environ["MLFLOW_EXPERIMENT_ID"]) == (False, "6")


def test_what_surprises_is_a_warning_or_an_error_as_the_tracker_or_else_the_environment_wants_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = OSError("the disk is gone")
    for given, variable, raises in (("warn", "raise", False), (None, "raise", True), (None, "warn", False)):
        monkeypatch.setenv("TAILRACE_ON_ERROR", variable)
        with tracking("http://localhost:1", agent="off") as sdk:
            core = tracker_core_of(sdk)
            core.given = {} if given is None else {"on_error": given}
            if raises:
                with pytest.raises(OSError, match="the disk is gone"):
                    core.surprised("log_text", error)
            else:
                core.surprised("log_text", error)
    assert (
        caplog.messages.count("tailrace: log_text() could not be done: OSError: the disk is gone. Training goes on.")
        == 2
    )


def test_a_tracker_that_was_closed_is_none_of_the_process_any_more() -> None:
    with tracking("http://localhost:1", agent="off") as sdk:
        core = tracker_core_of(sdk)
        assert core in tracker_cores()
        tracker_cores().clear()
        assert core in tracker_cores(), "what is given out is a copy"
    assert core not in tracker_cores()


def test_the_modules_functions_belong_to_one_tracker_whichever_others_there_are(off: Tracker) -> None:
    assert module_core() is not tracker_core_of(off)
    assert module_core().runs.home.log_param.__func__ is Tracker.log_param
    assert tailrace.log_param.__self__ is module_core().runs.home  # type: ignore[attr-defined]
