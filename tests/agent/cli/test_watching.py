"""Waiting for an agent that delivers a session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from helpers.commands import tailrace
from helpers.left_sessions import live_session
from tailrace_agent.cli import _watching
from tailrace_agent.cli._app import Code
from tailrace_agent.cli._deliver import Patience, Tick
from tailrace_agent.cli._watching import wait_for_agent
from tailrace_agent.ipc import status
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import RunStatus
from tailrace_agent.ledger import Counts, Ledger


def test_waiting_for_a_live_agent_ends_when_it_has_delivered() -> None:
    session = live_session(pending=0)
    lock = session.try_agent_lock()
    assert lock is not None
    try:
        assert tailrace("sync", session.id).exit_code == 0
        assert "or on its way" in tailrace("sync").stdout
        # The last line of a CI job: its program has ended, and nothing may be on its way any more.
        waited = tailrace("sync", "--wait", "--timeout", "0.3")
        assert (waited.exit_code, session.id in waited.stderr + waited.stdout) == (1, True)
    finally:
        os.close(lock)
    (session.dir / "finished").touch()
    assert "all is delivered\n" in tailrace("sync", "--wait").stdout


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """A clock that moves while somebody waits; at each pause, the next of these is done."""
    now, events = 0.0, list[Callable[[], None]]()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if events:
            events.pop(0)()

    monkeypatch.setattr(_watching.time, "monotonic", lambda: now)
    monkeypatch.setattr(_watching.time, "sleep", sleep)
    yield events
    assert events == []


@contextmanager
def _held(session: Session) -> Iterator[int]:
    lock = session.try_agent_lock()
    assert lock is not None
    yield lock
    with suppress(OSError):
        os.close(lock)


def _publish(session: Session, delivered: int, problem: str | None = None) -> None:
    ledger = Ledger(kinds={"metric": Counts(accepted=10, delivered=delivered)})
    status.write(session.shared / status.run_file(42), RunStatus(run=42, run_name="r", ledger=ledger, problem=problem))


def test_what_was_there_at_the_call_is_waited_for(clock: list[Callable[[], None]]) -> None:
    session, ticks = live_session(), list[Tick]()
    clock += [lambda: _publish(session, 9), lambda: _publish(session, 10)]
    with _held(session):
        result = wait_for_agent(session, ticks.append, Patience())
    assert result is not None
    assert (result.outcome, result.delivered, result.code) == ("delivered", 3, Code.FINE)
    assert [(tick.done, tick.total) for tick in ticks] == [(0, 3), (2, 3), (3, 3)]


def test_an_agent_without_progress_is_given_up_with_what_holds_it_up(clock: list[Callable[[], None]]) -> None:
    session = live_session()
    with _held(session):
        away = wait_for_agent(session, lambda _: None, Patience(without_progress=60))
        _publish(session, 7)
        slow = wait_for_agent(session, lambda _: None, Patience(timeout=5))
    assert away is not None
    assert slow is not None
    assert (away.outcome, away.code, away.reasons) == ("unreachable", Code.STORE, ["waiting for rain"])
    assert (slow.outcome, slow.code, slow.pending) == ("left", Code.WRONG, 3)


def test_what_a_dead_agent_has_left_is_not_waited_for(clock: list[Callable[[], None]]) -> None:
    session = live_session()
    with _held(session) as lock:
        clock.append(lambda: os.close(lock))
        assert wait_for_agent(session, lambda _: None, Patience()) is None


def test_with_wait_the_end_of_the_session_is_waited_for(clock: list[Callable[[], None]]) -> None:
    session = live_session(pending=0)
    with _held(session):
        assert wait_for_agent(session, lambda _: None, Patience(timeout=5)) is not None
        result = wait_for_agent(session, lambda _: None, Patience(timeout=5), wait=True)
    assert result is not None
    assert result.outcome == "left", "its program is gone, and its end is not in MLflow"
