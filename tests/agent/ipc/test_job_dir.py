"""What the processes of a job share on a node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailrace_agent.errors import StateDirError
from tailrace_agent.ipc.job_dir import JobDir, Owner
from tailrace_agent.runtime.processes import Fate, Process, process
from tailrace_agent.settings.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(dir=str(tmp_path / "state"))


def test_a_job_that_is_not_there_knows_nothing(settings: Settings) -> None:
    job = JobDir(settings, "a")
    assert (job.session, job.owner, job.outcome, job.owned) == (None, None, None, False)


def test_who_comes_later_finds_the_session_and_another_job_does_not(settings: Settings, tmp_path: Path) -> None:
    job = JobDir(settings, "a")
    job.make()
    with job.alone():
        job.note_session(tmp_path / "sessions" / "x")
    assert JobDir(settings, "a").session == str(tmp_path / "sessions" / "x")
    assert JobDir(settings, "b").session is None


def test_a_parent_is_there_as_long_as_it_lives_and_tells_how_its_command_ended(settings: Settings) -> None:
    job = JobDir(settings, "a")
    job.make()
    job.own(Owner(process(os.getpid()), "torchrun"))
    assert job.owned
    job.end(Fate(code=3))
    assert job.outcome is not None
    assert job.outcome.fate == Fate(code=3)
    job.own(Owner(Process(0, 0), "torchrun"))
    assert not job.owned
    assert job.outcome is None, "of the one before"


def test_damaged_files_are_as_if_they_had_not_been_written(settings: Settings) -> None:
    job = JobDir(settings, "a")
    job.make()
    for name in ("owner", "outcome", "session"):
        (job.path / name).write_bytes(b"\xff\x00{")
        (job.path / name).chmod(0o600)
    assert (job.owner, job.outcome) == (None, None)


def test_directories_of_jobs_that_are_over_go_with_the_next_one(settings: Settings) -> None:
    old = JobDir(settings, "old")
    old.make()
    old.note_session(Path("/nowhere"))
    os.utime(old.path, (1, 1))
    JobDir(settings, "new").make()
    assert not old.path.exists()


def test_a_state_directory_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirError, match="cannot write to"):
        JobDir(Settings(dir=str(tmp_path / "file")), "a").make()
