"""The agent as threads of the program: what it holds when it ends, and after a fork."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.forks import ForkedChild
from tailrace_agent.errors import Unavailable
from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.hosts import thread as module
from tailrace_agent.hosts.thread import ThreadHost
from tailrace_agent.ipc.finished import finished
from tailrace_agent.ipc.records import End, RunSpec, Start, encode
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.sinks.memory import MemorySink
from tailrace_agent.spool.store import Spool


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    sink = MemorySink()
    monkeypatch.setattr(module, "open_sink", sink.open)
    return sink


@pytest.fixture
def lock(session: Session) -> int:
    lock = session.try_agent_lock()
    assert lock is not None
    return lock


@pytest.fixture
def host(session: Session, lock: int, sink: MemorySink) -> Iterator[ThreadHost]:
    assert sink
    host = ThreadHost(session, lock, {"http://x": "user:pw"})
    yield host
    host.stop(60)


def log(session: Session, *, end: bool) -> None:
    ring = session.new_ring()
    ring.put(encode(Start(RunSpec(run=1, start_time=1, cwd="/"))))
    ring.put(encode((1, 0, 5, {"loss": 1.0})))
    if end:
        ring.put(encode(End(1, "FINISHED", 9)))


def test_what_is_in_the_rings_when_it_stops_is_in_the_spool_then(session: Session, host: ThreadHost) -> None:
    log(session, end=False)
    host.stop(60)
    assert not session.agent_alive()
    assert session.has_shared  # the run goes on: another agent finds the ring
    assert finished(session) is None
    spool = Spool(session.dir / "spool.db")
    assert spool.counts.ledger(1).accepted == 1
    spool.close()


def test_where_nothing_is_left_the_session_is_finished_and_shared_memory_free(
    session: Session, host: ThreadHost, sink: MemorySink
) -> None:
    log(session, end=True)
    while not (host._pipeline.book.all() and host._pipeline.settled):
        host._host.drainer.wake()
    host.stop(60)
    last = finished(session)
    assert last is not None
    assert (last.runs, last.dead) == (1, 0)
    assert not session.has_shared
    assert [run.status for run in sink.runs.values()] == ["FINISHED"]


def test_where_the_store_is_away_the_session_is_left_for_the_next_agent(
    session: Session, host: ThreadHost, sink: MemorySink
) -> None:
    def away(_: str) -> None:
        raise Unavailable("away")

    sink.fail = away
    log(session, end=True)
    host.stop(60)
    assert finished(session) is None
    assert session.has_shared


def test_a_second_stop_does_nothing_and_closes_nobodys_descriptor(
    session: Session, host: ThreadHost, lock: int
) -> None:
    host.stop(60)
    mine = os.dup2(os.open(os.devnull, os.O_RDONLY), lock)  # its number is somebody else's by now
    host.stop(60)
    os.fstat(mine)
    os.close(mine)
    assert not session.agent_alive()


def test_a_forked_child_holds_no_lock_and_stops_nothing(session: Session, host: ThreadHost) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        host.stop(1)
        os.read(reading, 1)
        os._exit(0)
    assert session.agent_alive()
    log(session, end=False)
    host.stop(60)
    assert not session.agent_alive()  # though the child lives
    os.close(writing)
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_after_it_has_stopped_closes_nobodys_descriptor(session: Session, host: ThreadHost, lock: int) -> None:
    host.stop(60)
    assert not session.agent_alive()
    assert _child_has(lock)


def test_a_fork_in_a_forked_child_closes_nobodys_descriptor(session: Session, host: ThreadHost, lock: int) -> None:
    child = os.fork()
    if child == 0:
        os._exit(not _child_has(lock))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert session.agent_alive()
    host.stop(60)


def test_a_child_forked_while_it_is_opened_holds_no_lock(
    session: Session, lock: int, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sink
    children: list[ForkedChild] = []
    real = module.Pipeline.open

    def forking(*args: Any, **more: Any) -> Pipeline:
        children.append(ForkedChild())
        return real(*args, **more)

    monkeypatch.setattr(module.Pipeline, "open", forking)
    host = ThreadHost(session, lock, {})
    os.dup2(os.open(os.devnull, os.O_RDONLY), lock)  # as its death would, this closes it
    assert not session.agent_alive()
    children[0].end()
    host.stop(60)


def test_one_that_cannot_be_opened_leaves_the_lock_to_its_caller(
    session: Session, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(module.Pipeline, "open", refuses)
    with pytest.raises(OSError, match="full"):
        ThreadHost(session, lock, {})
    let_go(lock)
    assert _child_has(lock), "its number is the program's again"
    assert not session.agent_alive()


def _child_has(number: int) -> bool:
    """Whether a file of that number, which is the program's own, is there in a forked child."""
    mine = os.open(os.devnull, os.O_RDONLY)
    os.dup2(mine, number)
    child = os.fork()
    if child == 0:
        try:
            os.fstat(number)
        except OSError:
            os._exit(1)
        os._exit(0)
    there = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for each in {mine, number}:
        os.close(each)
    return there


def test_rows_in_a_ring_that_cannot_be_opened_now_are_left_for_the_next_agent(
    session: Session, host: ThreadHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_session: Session, _name: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Session, "reader", none_left)
    log(session, end=True)
    host.stop(60)
    assert finished(session) is None
    assert session.has_shared
    assert len(session.rings()) == 1


def test_further_credentials_reach_the_store(session: Session, host: ThreadHost) -> None:
    host.remember({"http://y": "me:pw"})
    book = host._pipeline.book
    assert (book.credentials("http://x"), book.credentials("http://y")) == ("user:pw", "me:pw")
    assert session.agent_alive()
