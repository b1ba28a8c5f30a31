"""What becomes of a run when its job is over, and who says so."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_state import RankState, RunState
from tailrace_agent.ipc.job_dir import JobDir, Owner
from tailrace_agent.ipc.records import End, JobPart, RunSpec, Start
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.job_watch import JobWatch
from tailrace_agent.runtime.processes import Fate, Process, process
from tailrace_agent.settings.settings import Settings

GONE = 2**22 + 1  # no process has such an id


class Job:
    """A run of one job in a session of its own, with a rank 0 of which a test says what became."""

    def __init__(self, directory: Path, *, launcher: tuple[int, int] = (0, 0), owned: bool = True) -> None:
        settings = Settings(dir=str(directory), ring_dir=str(directory))
        self.session = Session.create(settings, cwd="/", program="test")
        self.book = RunBook({}, lambda *_: None)
        spec = RunSpec(run=1, start_time=5, cwd="/", owned=owned, job=JobPart(key="k", launcher=launcher))
        self.book.start(Start(spec), "ring")
        self.directory = JobDir(settings, "k")
        self.watch = JobWatch(self.session, self.book, KeptLog())

    def state(self, **rank: object) -> RunState:
        known = {"rank": 0, "ring": "ring", "pid": GONE, "started": 1, **rank}
        self.book.update(1, ranks=[msgspec.convert(known, RankState)])
        state = self.book.get(1)
        assert state is not None
        return state

    def end(self, state: RunState, rings: set[str] | None = None) -> tuple[str, str | None] | None:
        gone = self.watch.end_of(state, rings or set())
        return None if gone is None else (gone.end.status, gone.reason)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_a_rank_that_vanishes_is_written_down(job: Job) -> None:
    state = job.state()
    job.watch.watch(state)
    assert (state.ranks[0].state, state.ranks[0].code) == ("gone", None)
    assert job.end(state) == ("KILLED", f"rank 0 (process {GONE} on {os.uname().nodename}) is gone without a word")


def test_as_long_as_a_ring_is_read_or_the_launcher_lives_the_job_goes_on(job: Job, tmp_path: Path) -> None:
    assert job.end(job.state(state="gone"), {"ring"}) is None
    here = process(os.getpid())
    other = Job(tmp_path / "other", launcher=(here.pid, here.began))
    assert other.end(other.state(state="gone")) is None


def test_ranks_that_have_done_their_part_leave_a_finished_run(job: Job) -> None:
    assert job.end(job.state(state="done")) == ("FINISHED", None)


def test_what_rank_zero_has_said_stands_unless_a_rank_fell(job: Job) -> None:
    state = job.state(state="done")
    job.book.end(End(1, "FINISHED", 9))
    assert job.end(state) is None
    assert not job.watch.open(state)
    fell = job.end(job.state(state="gone", code=3))
    assert fell is not None
    assert fell[0] == "FAILED"


@pytest.mark.parametrize(
    ("fate", "status"), [(Fate(code=0), "FINISHED"), (Fate(code=2), "FAILED"), (Fate(signal=15), "KILLED")]
)
def test_a_parent_decides(job: Job, fate: Fate, status: str) -> None:
    job.directory.make()
    job.directory.own(Owner(process(os.getpid()), "torchrun"))
    state = job.state(state="done")
    assert job.end(state) is None, "it lives"
    job.directory.end(fate)
    found = job.end(state)
    assert found is not None
    assert found[0] == status


def test_a_parent_that_is_gone_without_a_word_decides_nothing(job: Job) -> None:
    job.directory.make()
    job.directory.own(Owner(Process(GONE, 1), "torchrun"))
    assert job.end(job.state(state="done")) == ("FINISHED", None)


def test_on_another_node_nothing_is_reported(tmp_path: Path) -> None:
    job = Job(tmp_path, owned=False)
    state = job.state(state="gone", signal=9)
    assert job.end(state) == ("FINISHED", None)
    assert not job.watch.open(state)
