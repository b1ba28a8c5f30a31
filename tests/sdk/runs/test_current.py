"""The runs of a process: which of them a call means, what children see, and one end that is no matter of the others."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from helpers.sdk_tools import Store, parent_of, tracking
from tailrace import Tracker
from tailrace._api.tracker_part import tracker_core_of
from tailrace._runs.program_end import end_all
from tailrace._runs.run_part import core_of


def test_the_end_empties_what_children_are_told_and_removes_no_variable_while_others_walk_them(
    sdk: Tracker,
) -> None:
    sdk.start_run()
    names = list(os.environ)  # as `requests` does in any thread, for each request
    assert os.environ["TAILRACE_RUN"]
    assert Path(os.environ["TAILRACE_SESSION"]).is_dir()
    sdk.end_run()
    end_all([tracker_core_of(sdk).runs])
    assert {name: os.environ[name] for name in names}.keys() >= {"TAILRACE_RUN", "TAILRACE_SESSION"}
    assert os.environ["TAILRACE_RUN"] == os.environ["TAILRACE_SESSION"] == ""


def in_thread(work: Any, *args: Any) -> Any:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *args).result()


def test_a_parent_of_another_session_is_named_by_mlflows_id(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as parent, sdk.start_run(nested=True, flush_interval=0.1) as child:
        assert core_of(child).connection is not core_of(parent).connection
    assert parent_of(sqlite_uri, child) == parent.run_id


def test_an_end_that_cannot_be_told_keeps_no_other_run_from_ending(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking(sqlite_uri, on_error="warn") as sdk:
        runs = [in_thread(sdk.start_run, None, None, f"run {n}") for n in range(3)]
        ids = [run.run_id for run in runs]

        def broken() -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(core_of(runs[1]), "_cost", broken)
    statuses = [Store(sqlite_uri, run_id).status for run_id in ids]
    assert (statuses[0], statuses[2]) == ("FINISHED", "FINISHED")
    assert "end() could not be done: OSError" in caplog.text


def test_what_keeps_a_parent_from_being_found_costs_no_nested_run_and_no_pickle(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking(sqlite_uri, on_error="warn") as sdk:

        def broken() -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(tracker_core_of(sdk).runs, "inherited", broken)
        assert isinstance(pickle.dumps(sdk), bytes)
        with sdk.start_run(nested=True) as run:
            sdk.log(loss=0.5)
        assert Store(sqlite_uri, run).history("loss")
