"""The consoles of a session's runs: when they are staged, and that they reach MLflow without being in anybody's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.console.consoles import Consoles, _placed
from tailrace_agent.console.tee import Segments
from tailrace_agent.delivery.deliver import Delivery
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_files import RunFiles
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.errors import Unavailable
from tailrace_agent.files.ownership import make_parents
from tailrace_agent.ipc.console_files import TRACEBACK, console_file, raw_dir
from tailrace_agent.ipc.records import End, JobPart, Rank, RunSpec, Start
from tailrace_agent.ipc.tags import LAST_WORDS_TAG
from tailrace_agent.sinks.memory import MemoryRun, MemorySink
from tailrace_agent.spool.store import Spool


class ConsoleRig:
    """The agent's parts that have to do with what runs print, with a clock that only the test moves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sink, self.now = folder, MemorySink(), 1000.0
        self.spool = Spool(folder / "spool.db")
        self.staging = folder / "artifacts"
        self.staging.mkdir()
        self.tees: dict[int, Segments] = {}
        self.restart()

    def restart(self) -> None:
        """An agent was killed: another one goes on with what is on the disk."""
        self.book = RunBook(self.spool.runs(), self.spool.save_run)
        more: Any = {"retry_max_delay": 30.0, "log": KeptLog(), "monotonic": lambda: self.now}
        self.consoles = Consoles(self.folder, self.staging, self.book, 1 << 20, KeptLog())
        self.delivery = Delivery(None, self.spool, self.book, lambda: self.sink, flush_interval=0.5, **more)
        self.files = RunFiles(self.delivery, self.book, self.staging, **more)
        self.book.waiters.set_barriers(self.spool.waiting.last_id())

    def start(self, **spec: Any) -> None:
        record = RunSpec(**{"run": 1, "start_time": 5, "cwd": str(self.folder), "console": True, **spec})
        self.spool.save_run(1, self.book.start(Start(record), "ring"))

    def say(self, text: str, rank: int = 0) -> None:
        """A process of the run prints."""
        if rank not in self.tees:
            directory = raw_dir(self.folder, 1, rank)
            make_parents(directory)
            self.tees[rank] = Segments(str(directory), 1 << 20)
        self.tees[rank].keep(text.encode())

    def end(self, status: str = "FINISHED", *, gone: bool = True) -> None:
        for tee in self.tees.values() if gone else ():
            tee.done()
        state = self.book.end(End(1, status, 9))
        assert state is not None
        self.spool.save_run(1, state)
        self.book.waiters.set_barriers(self.spool.waiting.last_id())

    def work(self, seconds: float) -> None:
        """Lets some time go by."""
        until = self.now + seconds
        while self.now < until:
            steps = (self.consoles.step, self.delivery.step, self.files.step)
            self.now = min(until, max(self.now + 0.001, min(step(self.now) for step in steps)))

    @property
    def state(self) -> RunState:
        state = self.book.get(1)
        assert state is not None
        return state

    @property
    def run(self) -> MemoryRun:
        (run,) = self.sink.runs.values()
        return run

    def artifact(self, name: str) -> str:
        return self.run.artifacts[name].decode()


@pytest.fixture
def rig(tmp_path: Path) -> ConsoleRig:
    return ConsoleRig(tmp_path)


def test_what_a_run_prints_is_in_mlflow_every_half_minute_and_at_its_end(rig: ConsoleRig) -> None:
    rig.start()
    rig.say("one\n")
    rig.work(2)
    assert rig.artifact("console.log") == "one\n"
    rig.say("two\n")
    rig.work(20)
    assert console_file(rig.folder, 1).read_text() == "one\ntwo\n", "here it is at once"
    assert rig.artifact("console.log") == "one\n"
    rig.work(15)
    assert rig.artifact("console.log") == "one\ntwo\n"
    rig.say("three\n")
    rig.end()
    rig.work(1)
    assert rig.artifact("console.log") == "one\ntwo\nthree\n"
    assert rig.run.status == "FINISHED"
    assert rig.state.finalized
    assert not [each for each in rig.staging.iterdir() if each.name.startswith("console")]
    assert not raw_dir(rig.folder, 1, 0).exists(), "the bytes are not masked"
    assert not any(tag.startswith(LAST_WORDS_TAG) for tag in rig.run.tags)
    assert rig.spool.counts.ledger(1).accepted == 0, "it is outside of the ledger"


def test_a_run_is_closed_when_its_last_words_are_stored(rig: ConsoleRig) -> None:
    rig.start()
    rig.say("one\n")
    rig.work(2)
    order: list[str] = []
    log_artifacts, end_run = rig.sink.log_artifacts, rig.sink.end_run
    rig.sink.log_artifacts = lambda *given: (order.append("console"), log_artifacts(*given))[1]  # type: ignore[method-assign]
    rig.sink.end_run = lambda *given: (order.append("end"), end_run(*given))[1]  # type: ignore[method-assign,func-returns-value]
    rig.say("two\n")
    rig.end()
    rig.work(3)
    assert order == ["console", "end"]


def test_a_run_that_says_nothing_has_no_file_and_waits_for_nothing(rig: ConsoleRig) -> None:
    rig.start()
    rig.say("tailrace: look at run 'a'\n")
    rig.end()
    rig.work(1)
    assert rig.run.artifacts == {}
    assert rig.run.status == "FINISHED"
    assert rig.state.finalized


def test_a_tee_that_is_never_done_holds_up_the_end_for_two_seconds(rig: ConsoleRig) -> None:
    rig.start()
    rig.say("one\n")
    rig.work(1.5)
    rig.end("KILLED", gone=False)
    rig.work(1.5)
    assert rig.run.status == "RUNNING"
    rig.say("two\n")
    rig.work(2)
    assert rig.run.status == "KILLED"
    assert rig.artifact("console.log") == "one\ntwo\n"


def test_a_store_without_room_for_it_holds_up_the_end_for_ten_seconds(rig: ConsoleRig) -> None:
    def away(*_: object) -> None:
        raise Unavailable("no room")

    rig.start()
    rig.say("one\n")
    rig.sink.log_artifacts = away  # type: ignore[method-assign,assignment]
    rig.work(1)
    rig.end()
    rig.work(30)
    assert rig.run.status == "FINISHED"
    rig.work(400)
    assert rig.state.finalized


def test_what_could_not_be_stored_comes_with_the_next(rig: ConsoleRig) -> None:
    def away(*_: object) -> None:
        raise Unavailable("no room")

    log_artifacts = rig.sink.log_artifacts
    rig.start()
    rig.say("one\n")
    rig.sink.log_artifacts = away  # type: ignore[method-assign,assignment]
    rig.work(200)
    rig.sink.log_artifacts = log_artifacts  # type: ignore[method-assign]
    rig.end()
    rig.work(60)
    assert rig.artifact("console.log") == "one\n"


def test_the_next_agent_goes_on_with_what_is_on_the_disk(rig: ConsoleRig) -> None:
    rig.start()
    rig.say("one\n")
    rig.work(2)
    rig.restart()
    rig.say("two\n")
    rig.end()
    rig.work(3)
    assert rig.artifact("console.log") == "one\ntwo\n"


def test_a_run_that_fell_has_its_last_fifty_lines_as_a_tag(rig: ConsoleRig) -> None:
    rig.start()
    rig.say("".join(f"line {number} password=hunter2\n" for number in range(60)))
    rig.end("KILLED")
    rig.work(3)
    words = rig.run.tags[LAST_WORDS_TAG].split("\n")
    assert words == [f"line {number} password=***" for number in range(10, 60)]


def test_last_words_keep_whole_lines_where_a_tag_has_no_room_for_all(rig: ConsoleRig) -> None:
    rig.start()
    rig.say("".join(f"{number:03d} {'x' * 200}\n" for number in range(60)))
    rig.end("FAILED")
    rig.work(3)
    words = rig.run.tags[LAST_WORDS_TAG]
    assert len(words) < 5000
    assert words.endswith(f"059 {'x' * 200}")
    assert all(len(line) == 204 for line in words.split("\n"))


def test_a_traceback_is_stored_and_is_the_last_word_unless_it_was_printed(rig: ConsoleRig) -> None:
    rig.start()
    rig.say("before\n")
    file = raw_dir(rig.folder, 1, 0) / TRACEBACK
    file.write_text("Traceback (most recent call last):\nValueError: no\n")
    file.chmod(0o600)
    rig.end("FAILED")
    rig.work(3)
    assert rig.artifact("traceback.txt").endswith("ValueError: no\n")
    assert rig.run.tags[LAST_WORDS_TAG].split("\n")[-2:] == ["Traceback (most recent call last):", "ValueError: no"]


def test_of_a_job_each_rank_has_its_file_and_those_that_fell_their_words(rig: ConsoleRig) -> None:
    rig.start(job=JobPart(key="a", world_size=3, local_world_size=3))
    for rank in range(3):
        record = Rank(1, rank, 100 + rank, 7, 0, "failed" if rank == 2 else "began", 9)
        state = rig.book.rank(record, f"ring{rank}")
        assert state is not None
        rig.say(f"I am {rank}\n", rank)
    rig.end("FAILED")
    rig.work(20)
    assert rig.artifact("console.log") == "I am 0\n"
    assert rig.artifact("console/rank2.log") == "I am 2\n"
    words = {key: value for key, value in rig.run.tags.items() if key.startswith(LAST_WORDS_TAG)}
    assert words == {f"{LAST_WORDS_TAG}.rank2": "I am 2"}
    assert raw_dir(rig.folder, 1, 2).exists(), "the next attempt goes on with it"


def test_a_run_that_is_resumed_keeps_what_the_program_before_has_printed(rig: ConsoleRig) -> None:
    rig.sink.open_run(RunSpec(run=7, start_time=1, cwd="/"), None, find_first=False)
    rig.start(run_id=rig.run.run_id)
    rig.say("again\n")
    rig.end()
    rig.work(3)
    assert rig.run.artifacts == {"console/resumed-19700101-000000-000001.log": b"again\n"}


def test_two_programs_that_resume_a_run_within_a_second_keep_both_what_they_print(rig: ConsoleRig) -> None:
    rig.sink.open_run(RunSpec(run=7, start_time=1, cwd="/"), None, find_first=False)
    rig.start(run_id=rig.run.run_id)
    first = rig.state
    second = msgspec.structs.replace(first, spec=msgspec.structs.replace(first.spec, run=2))
    assert _placed(rig.folder, first, 0, "console.log") != _placed(rig.folder, second, 0, "console.log")


def test_a_job_that_is_started_anew_in_a_session_of_its_own_keeps_what_the_one_before_has_printed(
    rig: ConsoleRig, tmp_path: Path
) -> None:
    def started(rig: ConsoleRig, at: int, text: str) -> None:
        rig.start(start_time=at, job=JobPart(key="named:night", name="night", world_size=2, local_world_size=2))
        rig.say(f"{text} of 0\n")
        rig.work(2)
        rig.restart()  # another agent knows which names are its
        for rank in range(2):
            rig.say(f"{text} of {rank}\n", rank)
        rig.end()
        rig.work(20)

    started(rig, 5, "one")
    for number, at in ((2, 7), (3, 8)):
        folder = tmp_path / str(number)
        folder.mkdir()
        another = ConsoleRig(folder)
        another.sink = rig.sink
        started(another, at, f"number {number}")
    assert rig.run.artifacts == {
        "console.log": b"one of 0\none of 0\n",
        "console/rank1.log": b"one of 1\n",
        "console/resumed-19700101-000000-000006.log": b"number 2 of 0\nnumber 2 of 0\n",
        "console/resumed-19700101-000000-000006-rank1.log": b"number 2 of 1\n",
        "console/resumed-19700101-000000-000009.log": b"number 3 of 0\nnumber 3 of 0\n",
        "console/resumed-19700101-000000-000009-rank1.log": b"number 3 of 1\n",
    }


def test_the_last_copy_is_made_once_however_the_uploads_come_in_between(rig: ConsoleRig) -> None:
    rig.start()
    rig.say("one\n")
    rig.end("KILLED")
    look = rig.consoles._look

    def arrives_meanwhile(state: RunState, now: float) -> bool:
        """Between the look at which runs are to be read and the look at this one."""
        for _ in range(3):
            rig.delivery.step(rig.now)
            rig.files.step(rig.now)
        return look(state, now)

    rig.consoles._look = arrives_meanwhile  # type: ignore[method-assign]
    rig.work(3)
    assert rig.consoles.staged == 1
