"""Runs and Ray: who finds which, and what is left behind. With a stand-in; Ray itself is in tests/services."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.ray_standin import Context, put_ray
from helpers.sdk_tools import tracking, warnings
from tailrace import Tracker
from tailrace._runs.run_part import core_of
from tailrace._session.ray_place import ray_place
from tailrace_agent.ipc.job_dir import JobDir


def test_a_driver_shows_workers_its_session(sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_ray(monkeypatch, Context(0))
    place = ray_place()
    assert place is not None
    with tracking(sqlite_uri, dir=str(tmp_path / "state")) as tracker, tracker.start_run() as run:
        core = core_of(run)
        assert core.connection is not None
        assert JobDir(core.settings, place.key).session == str(core.connection.session.dir)


def test_a_run_that_an_earlier_task_left_behind_is_ended_with_a_word(
    sdk: Tracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    context = Context(1)
    put_ray(monkeypatch, context)
    first = sdk.start_run(run_name="first")
    context.task = "t2"
    second = sdk.start_run(run_name="second")
    assert (first.status, second.status) == ("FINISHED", "RUNNING")
    assert "run 'first' was begun by an earlier task" in warnings(caplog)[0]
    sdk.end_run()
