"""Dead letters and waiting artifacts across sessions: what they hold, and how they come back on the way."""

from __future__ import annotations

import os
from typing import Any

import pytest

from helpers.left_sessions import metric_letter, spooled_session
from tailrace_agent.cli._app import Fail
from tailrace_agent.cli._letters import Letter, collect, discard, put_back, select
from tailrace_agent.cli._look import glance, reading, states
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.finished import mark_finished
from tailrace_agent.ipc.records import Artifact, encode
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.spool.blocks import decode_rows
from tailrace_agent.spool.dead_letters import DeadLetters
from tailrace_agent.spool.store import Spool


@pytest.fixture
def session() -> Session:
    return spooled_session(letters=[metric_letter("f1!"), metric_letter("bad!", 1e9, 12)])


def _collected(**which: Any) -> list[Letter]:
    letters, silent = collect(load_settings(), None, **which)
    assert silent == []
    return letters


def _taken(session: Session) -> int:
    lock = session.try_agent_lock()
    assert lock is not None
    return lock


def test_letters_have_the_end_of_their_sessions_id_and_what_they_hold(session: Session) -> None:
    end = session.id.rpartition("-")[2]
    assert [(letter.id, letter.value) for letter in _collected()] == [
        (f"{end}:1", "0.5 at step 3"),
        (f"{end}:2", "1e+09 at step 12"),
    ]
    assert [letter.letter.key for letter in _collected(key="bad!")] == ["bad!"]
    assert _collected()[0].summary()["run_name"] == "r"


def test_a_letter_that_holds_nothing_readable_has_a_question_mark_for_a_value(session: Session) -> None:
    whole = _collected()[0]
    for kind in ("metric", "param", "artifact"):
        damaged = whole._replace(letter=whole.letter._replace(kind=kind, body=b"\xc1"))
        assert damaged.value == "?"
    assert whole._replace(letter=whole.letter._replace(n=1200)).value == "(1,200 metrics)"
    assert whole._replace(letter=whole.letter._replace(kind="tag", body=encode({"f1!": "a text"}))).value == "a text"


def test_a_letter_is_requested_by_its_whole_id_or_by_its_number_where_that_is_one(session: Session) -> None:
    spooled_session(letters=[metric_letter("f1!")])
    letters = _collected()
    (second,) = [letter for letter in letters if letter.letter.id == 2]
    assert select(letters, ["2", second.id]) == [second], "once, however often it is named"
    with pytest.raises(Fail, match="'1' fits 2 dead letters: write SESSION:NUMBER"):
        select(letters, ["1"])
    with pytest.raises(Fail, match="there is no dead letter 'x:9'"):
        select(letters, ["x:9"])


def test_a_letter_that_is_put_back_waits_under_its_new_name(session: Session) -> None:
    mark_finished(session, runs=1, dead=2, at=1.0)
    put_back(session, _collected(key="f1!"), {"f1!": "f1"})
    assert not (session.dir / "finished").exists()
    with reading(session) as spool:
        assert spool is not None
        (found,) = spool.waiting.oldest(7, "metric", 10)
        assert (decode_rows(found.body), found.first_ns) == ([(7, 3, 1_000, {"f1": 0.5})], 1_000)
        assert [letter.key for letter in spool.letters.all()] == ["bad!"]
        assert spool.counts.ledger(7).pending == 1


class _Killed(BaseException):
    """The process ends here, whatever comes after."""


@pytest.mark.parametrize(
    ("where", "before", "pending"), [(RunBook, "advance", 0), (DeadLetters, "revive", 0), (Spool, "close", 1)]
)
def test_a_kill_while_letters_are_put_back_leaves_a_session_that_sync_takes_up(
    monkeypatch: pytest.MonkeyPatch, where: type, before: str, pending: int
) -> None:
    whole = getattr(where, before)

    def kill(*arguments: object) -> None:
        if before == "close":  # else it would stay open, in this process
            whole(*arguments)
        raise _Killed

    session = spooled_session(letters=[metric_letter("f1!")], finalized=True)
    mark_finished(session, runs=1, dead=1, at=1.0)
    letters = _collected()
    with monkeypatch.context() as patch:
        patch.setattr(where, before, kill)
        with pytest.raises(_Killed):
            put_back(session, letters, {"f1!": "f1"})
    view = glance(session)
    assert (view.state, view.pending, view.dead, view.needs_you) == ("leftover", pending, 1 - pending, True)
    with reading(session) as spool:
        assert spool is not None
        (state,) = states(session, spool)
        assert state.finalized is (before == "advance"), "a run that counts as done gets nothing sent"


def test_a_letter_that_the_disk_has_damaged_is_not_put_back(session: Session) -> None:
    first, second = _collected()
    damaged = second._replace(letter=second.letter._replace(body=b""))
    with pytest.raises(Fail, match=f"{second.id} was damaged on disk, and cannot be sent: tailrace dead drop"):
        put_back(session, [first, damaged], {})
    assert len(_collected()) == 2, "none of them"


def test_discarded_letters_are_counted_as_dropped_by_the_user(session: Session) -> None:
    discard(session, _collected(key="bad!"))
    with reading(session) as spool:
        assert spool is not None
        ledger = spool.counts.ledger(7)
    assert (ledger.dead, ledger.of("metric").dropped) == (1, {"discarded by the user": 1})


@pytest.fixture
def waiting() -> Session:
    """A session with an artifact that waits, and its file."""
    record = Artifact(7, "staged-1", "plots")
    session = spooled_session(blocks=[(7, "artifact", 1, 0, encode(record))])
    (session.artifacts / "staged-1").mkdir(parents=True)
    (session.artifacts / "staged-1" / "a.txt").write_text("a")
    return session


def test_an_artifact_that_waits_is_listed_under_the_name_that_it_is_to_have(waiting: Session) -> None:
    assert _collected() == [], "it has not failed"
    (letter,) = _collected(pending=True)
    assert (letter.letter.key, letter.id.partition(":")[2], letter.value) == ("plots/a.txt", "p1", "plots")


def test_an_artifact_is_moved_within_its_runs_directory_and_never_out_of_it(waiting: Session) -> None:
    letters = _collected(pending=True)
    for outside in ("../x", "/etc/x", "..", "a/../.."):
        with pytest.raises(Fail, match="is no place in a run's artifacts"):
            put_back(waiting, letters, {"plots/a.txt": outside})
    put_back(waiting, letters, {"plots/a.txt": "figures/last/b.txt"})
    (letter,) = _collected(pending=True)
    assert letter.letter.key == "figures/last/b.txt"
    assert (waiting.artifacts / "staged-1" / "b.txt").read_text() == "a"


def test_a_discarded_artifact_takes_its_file_along(waiting: Session) -> None:
    discard(waiting, _collected(pending=True))
    assert _collected(pending=True) == []
    assert not (waiting.artifacts / "staged-1").exists()


def test_a_session_that_is_held_is_named_and_the_others_are_listed(session: Session) -> None:
    held = spooled_session(letters=[metric_letter("f1!")])
    lock = _taken(held)
    letters, silent = collect(load_settings(), None)
    os.close(lock)
    assert {letter.session.id for letter in letters} == {session.id}
    assert [held.id in text and "is live" in text for text in silent] == [True]
