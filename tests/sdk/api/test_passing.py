"""Runs, trackers and functions, passed on: they come back as themselves, and no secret is in a pickle."""

from __future__ import annotations

import copy
import pickle

import cloudpickle
import pytest

import tailrace
from helpers.sdk_tools import Store, tracking
from tailrace import Run, Tracker
from tailrace._api.tracker_part import tracker_core_of


def test_a_tracker_of_a_class_of_ones_own_comes_back_as_a_tracker(sqlite_uri: str) -> None:
    class Mine(Tracker):
        def __init__(self) -> None:
            super().__init__(sqlite_uri, quiet=True, agent="off")

    mine = Mine()
    back = pickle.loads(pickle.dumps(mine))
    assert back.get_tracking_uri() == sqlite_uri
    for tracker in (mine, back):
        tracker_core_of(tracker).close()


def test_a_run_and_a_tracker_are_copied_as_themselves(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as sdk, sdk.start_run() as run:
        config = {"run": run, "tracker": sdk, "log": run.log}
        copied = copy.deepcopy(config)
        assert (copied["run"], copied["tracker"]) == (run, sdk)
        assert copy.copy(run) is run
        for dumps in (pickle.dumps, cloudpickle.dumps):
            again: Run = pickle.loads(dumps(run))
            assert again is run
            pickle.loads(dumps(run.log))({"a": 1})
        elsewhere: Tracker = pickle.loads(pickle.dumps(sdk))
        assert elsewhere.active_run() is run
    assert Store(sqlite_uri, run).history("a") == [(0, 1.0), (1, 1.0)]


def test_no_secret_is_in_a_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    uri, hook = "http://ada:s3cr3t@127.0.0.1:9", "https://hooks.example.org/s3cr3t"
    with tracking(uri, alert_webhook=hook, end_timeout=0, exit_timeout=0, linger=0, on_error="warn") as sdk:
        run = sdk.start_run()
        for each in (sdk, run, sdk.log_metric, run.log):
            assert b"s3cr3t" not in pickle.dumps(each)
        assert pickle.loads(pickle.dumps(sdk)).get_tracking_uri() == "http://ada@127.0.0.1:9"


def test_the_functions_of_the_module_are_pickled_by_name() -> None:
    for function in (tailrace.log, tailrace.log_metric, tailrace.start_run):
        assert pickle.loads(pickle.dumps(function)) == function
