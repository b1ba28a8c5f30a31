"""Sessions looked at from outside: which one is meant, and what state it is in."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from helpers.commands import json_of, tailrace
from helpers.left_sessions import finished_session, live_session, metric_letter, spooled_session
from helpers.stored_runs import SameNames
from tailrace_agent.cli import _look
from tailrace_agent.cli._app import Fail
from tailrace_agent.cli._look import Busy, find_session, glance, in_full, look, reading
from tailrace_agent.ipc import status
from tailrace_agent.ipc.finished import mark_finished
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.spool.database import Database


def test_a_live_session_is_shown_and_left_alone() -> None:
    session = live_session()
    lock = session.try_agent_lock()
    assert lock is not None
    try:
        (seen,) = json_of(tailrace("status", "--json"))["sessions"]
        assert (seen["state"], seen["agent_pid"]) == ("live", 1)
        assert (seen["runs"][0]["delivered"], seen["runs"][0]["pending"]) == (7, 3)
        assert "waiting for rain" in tailrace("status").output
        dropped = tailrace("dead", "drop", "--all", "--yes")
        assert dropped.exit_code == 5
        assert "is live" in dropped.stderr
        waited = tailrace("sync", session.id, "--timeout", "0.5", "--json")
        assert waited.exit_code == 3
        assert "waiting for rain" in waited.stdout
        assert "nothing to delete" in tailrace("clean", "--yes", "--discard-undelivered", "--older-than", "0").output
    finally:
        os.close(lock)


def test_a_session_that_is_meant_by_a_beginning_of_several_is_an_error_that_lists_them(same_names: SameNames) -> None:
    result = same_names.tailrace("sync", "20", "--tracking-uri", same_names.uris[1])
    assert result.exit_code == 4
    assert "fits 4 sessions: 20" in result.stderr
    assert " finished, " in result.stderr
    assert same_names.tailrace("sync", "").exit_code == 4


def test_a_session_is_meant_by_its_id_its_beginning_or_its_end() -> None:
    first, second = finished_session("a.py"), spooled_session(program="b.py")
    for session in (first, second):
        assert find_session(load_settings(), session.id).id == session.id
        assert find_session(load_settings(), session.id.rpartition("-")[2]).id == session.id
    with pytest.raises(Fail, match=r"there is no session 'nosuch' here; `tailrace status --all` lists them"):
        find_session(load_settings(), "nosuch")
    with pytest.raises(Fail, match=r"fits 2 sessions: .*; give more of an id") as caught:
        find_session(load_settings(), first.id[:4])
    for shown in (f"{first.id} (a.py, finished, ", f"{second.id} (b.py, leftover, "):
        assert shown in caught.value.message


def test_of_a_session_that_is_over_nothing_is_opened_unless_its_runs_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = finished_session()
    opened: list[Path] = []
    monkeypatch.setattr(_look, "Database", lambda path, **how: opened.append(path) or Database(path, **how))
    view = glance(session)
    assert (view.state, view.runs, opened) == ("finished", [], [])
    assert [run.run_name for run in in_full(load_settings(), view).runs] == ["r"]
    assert len(opened) == 1
    session.remove()
    assert in_full(load_settings(), view) is view, "it was deleted meanwhile"


def test_dead_letters_of_a_finished_session_are_seen_also_where_an_older_tailrace_has_not_counted_them() -> None:
    session = spooled_session(letters=[metric_letter("f1!")], finalized=True)
    mark_finished(session, runs=1, dead=1, at=1.0)
    session.remove_shared()
    assert (glance(session).state, glance(session).dead) == ("finished", 1)
    (session.dir / "finished").write_bytes(b"")  # as it was
    assert glance(session).dead == 1


def test_a_run_whose_program_is_gone_may_have_ended_in_its_ring() -> None:
    view = look(spooled_session())
    assert (view.state, view.runs[0].state, view.trainer_alive) == ("leftover", "UNKNOWN", False)


def test_a_program_without_an_agent_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    session = spooled_session()
    monkeypatch.setattr(Session, "rings", lambda self: ["r"])
    monkeypatch.setattr(Session, "owner_alive", lambda self, ring: True)
    view = look(session)
    assert (view.state, view.runs[0].state) == ("starting", "RUNNING")


def test_a_live_session_is_known_by_what_its_agent_publishes_and_its_silence_is_a_problem() -> None:
    session = live_session()
    lock = session.try_agent_lock()
    assert lock is not None
    try:
        view = look(session)
        assert (view.state, view.agent_pid, view.problem) == ("live", 1, None)
        assert [(run.delivered, run.pending, run.problem) for run in view.runs] == [(7, 3, "waiting for rain")]
        then = time.time() - 60
        status.write(session.shared / "agent.status", AgentStatus(pid=1, host="thread", started=then, seen=then))
        assert "process 1) has given no sign of life for 60 s" in (look(session).problem or "")
        with pytest.raises(Busy), reading(session):
            pass
    finally:
        os.close(lock)


def test_a_spool_that_cannot_be_read_stays_where_it_is() -> None:
    session = spooled_session()
    (session.dir / "spool.db").write_bytes(b"no database" * 1000)
    view = look(session)
    assert (view.state, "the next delivery sets it aside" in (view.problem or "")) == ("unreadable", True)
    assert (session.dir / "spool.db").read_bytes() == b"no database" * 1000
    lock = session.try_agent_lock()
    assert lock is not None, "whoever only looks gives the lock back"
    os.close(lock)


def test_a_session_of_another_host_is_not_looked_into() -> None:
    session = spooled_session(letters=[metric_letter("f1!")])
    session.save(hostname="elsewhere")
    view = look(Session.open(session.dir))
    assert (view.state, view.host, view.runs) == ("elsewhere", "elsewhere", [])
