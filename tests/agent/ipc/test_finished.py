"""The last word on a session, of any version, and what was set aside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailrace_agent.ipc.finished import (
    Finished,
    SetAside,
    finished,
    mark_finished,
    note_set_aside,
    set_aside,
)
from tailrace_agent.ipc.session import Session


def test_what_is_marked_is_read_again(session: Session) -> None:
    assert finished(session) is None
    mark_finished(session, runs=3, dead=1, at=7.5)
    assert finished(session) == Finished(runs=3, dead=1, at=7.5)


@pytest.mark.parametrize(("body", "dead"), [(b"", None), (b"dead letters", 12), (b"\xff{", 2)])
def test_what_an_older_version_wrote_says_whether_letters_are_dead_and_its_own_time(
    session: Session, body: bytes, dead: int | None
) -> None:
    path = session.dir / "finished"
    path.write_bytes(body)
    os.utime(path, (9, 9))
    assert finished(session) == Finished(runs=None, dead=dead, at=9.0)


def test_spools_that_were_set_aside_are_found_with_what_became_of_them_the_oldest_first(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(there(path), reverse=True))
    first, second = (session.dir / f"spool.db.damaged-{at}" for at in (1, 2))
    for path in (second, first, session.dir / "spool.db.damaged-1-wal", session.dir / "spool.db.damaged-1-shm"):
        path.touch()
    note = SetAside(path=str(first), reason="malformed", entries=1234, lost=5)
    note_set_aside(note)
    assert set_aside(session) == [note, SetAside(path=str(second))]
    assert "1,234 entries could be read back, 5 are lost" in str(note)
    assert "what else it held is lost" in str(set_aside(session)[1])


def test_a_note_that_cannot_be_read_costs_the_note_and_not_the_spool(session: Session) -> None:
    path = session.dir / "spool.db.damaged-1"
    path.touch()
    Path(f"{path}.json").write_bytes(b"{")
    assert set_aside(session) == [SetAside(path=str(path))]


def test_where_nothing_was_set_aside_or_the_session_is_gone_there_is_nothing(session: Session) -> None:
    (session.dir / "spool.db").touch()
    assert set_aside(session) == []
    session.remove()
    assert set_aside(session) == []
