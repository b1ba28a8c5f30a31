"""A session is taken over when nobody of it lives, and given back to a program that joins."""

from __future__ import annotations

import os

import pytest

from tailrace_agent.cli import _holding
from tailrace_agent.cli._holding import relieve, take_over
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.sources import load_settings


@pytest.fixture
def session() -> Session:
    return Session.create(load_settings(), cwd="/", program="train.py")


def _owners(monkeypatch: pytest.MonkeyPatch, *alive: bool) -> None:
    """Whether a program of the session lives, look by look."""
    looks = iter(alive)
    monkeypatch.setattr(Session, "rings", lambda self: ["r"])
    monkeypatch.setattr(Session, "owner_alive", lambda self, ring: next(looks))


def test_a_session_that_nobody_holds_is_taken_over_once(session: Session) -> None:
    lock = take_over(session)
    assert lock is not None
    assert take_over(session) is None
    os.close(lock)
    again = take_over(session)
    assert again is not None
    os.close(again)


def test_a_session_with_a_program_is_left_to_its_agent(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    _owners(monkeypatch, True, True)
    assert take_over(session) is None


def test_a_program_that_joins_meanwhile_gets_the_session_back(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    _owners(monkeypatch, False, True)
    assert take_over(session) is None
    lock = session.try_agent_lock()
    assert lock is not None, "the lock was given back"
    os.close(lock)


def test_a_session_without_shared_memory_gets_some_to_be_held_in(session: Session) -> None:
    session.remove_shared()
    lock = take_over(session)
    assert lock is not None
    assert session.has_shared
    os.close(lock)


def test_an_agent_that_has_outlived_its_programs_is_made_to_leave(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = session.try_agent_lock()
    assert held is not None
    monkeypatch.setattr(_holding, "request_exit", lambda _: os.close(held) or True)
    lock = relieve(session)
    assert lock is not None
    os.close(lock)


def test_an_agent_that_cannot_be_made_to_leave_is_not_waited_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = session.try_agent_lock()
    assert held is not None
    monkeypatch.setattr(_holding, "request_exit", lambda _: False)
    assert relieve(session) is None
    os.close(held)
