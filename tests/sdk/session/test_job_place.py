"""The job of this process, and the session that it shares with others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.sdk_tools import scripts
from tailrace._messages.voice import Voice
from tailrace._session import job_place
from tailrace._session.job_place import RANK, this_job


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RANK, raising=False)
    monkeypatch.setattr(job_place, "_forked", False)


def test_the_children_of_a_rank_are_none_and_another_rank_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    job = this_job("mine", Voice())
    assert job is not None
    assert job.rank == 1
    assert this_job("mine", Voice()) is not None, "it is the same process"
    monkeypatch.setenv(RANK, f"1:{os.getpid() + 1}:named:mine")
    assert this_job("mine", Voice()) is None
    monkeypatch.setenv("RANK", "2")
    assert this_job("mine", Voice()) is not None


def test_ranks_that_nothing_holds_together_are_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert this_job(None, Voice()) is None
    assert "Give the job a name" in caplog.text


SHARES = """
import time
import tailrace as sdk
with sdk.start_run(run_name="{name}"):
    sdk.log(x=1.0)
    time.sleep(2)
"""


@pytest.mark.slow
def test_programs_that_share_the_agent_of_a_machine_have_runs_of_their_own(sqlite_uri: str, tmp_path: Path) -> None:
    import mlflow

    state = str(tmp_path / "state")
    done = scripts(
        tmp_path,
        {name: SHARES.format(name=name) for name in ("a", "b")},
        TAILRACE_AGENT="node",
        TAILRACE_DIR=state,
        TAILRACE_TRACKING_URI=sqlite_uri,
    )
    assert [each.returncode for each in done.values()] == [0, 0], done
    assert len(list(Path(state, "sessions").iterdir())) == 1
    found = mlflow.MlflowClient(sqlite_uri).search_runs(["0"])
    assert sorted(run.info.run_name for run in found) == ["a", "b"]
    assert {run.info.status for run in found} == {"FINISHED"}


@pytest.mark.slow
def test_settings_that_differ_are_named_once(sqlite_uri: str, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    codes = {
        "first": SHARES.format(name="a"),
        "second": "import time; time.sleep(1)\n" + SHARES.format(name="b").replace('"b"', '"b", nice=3'),
    }
    done = scripts(tmp_path, codes, TAILRACE_AGENT="node", TAILRACE_DIR=state, TAILRACE_TRACKING_URI=sqlite_uri)
    assert "with other settings: nice (3 here, 10 there)" in done["second"].stderr
    assert "other settings" not in done["first"].stderr
