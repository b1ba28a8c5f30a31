"""The run book: how a run ends, who waits, and what is never written down."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.run_books import REF, Saved, settled, spec, started
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc.records import End, LogCost, RunSpec, Samples, Start
from tailrace_agent.ledger import Ledger

# -- beginning and end -------------------------------------------------------------------------------------------------


def test_what_an_agent_knew_its_successor_knows(book: RunBook, saved: Saved) -> None:
    started(book, tracking_uri="http://x")
    book.update(1, ref=REF, attempts=2)
    encoded = book.end(End(1, "FAILED", 99, LogCost(1, 2, 3)))
    assert encoded is not None
    saved[1] = encoded
    state = saved.book().get(1)
    assert state == book.get(1)
    assert state is not None
    assert (state.ref, state.attempts, state.status, state.ring) == (REF, 2, "FAILED", "ring")


def test_a_run_that_makes_itself_known_again_keeps_its_state(book: RunBook) -> None:
    started(book)
    book.update(1, ref=REF)
    started(book)
    state = book.get(1)
    assert state is not None
    assert state.ref == REF
    assert len(book.all()) == 1


def test_the_first_end_that_was_said_counts(book: RunBook) -> None:
    started(book)
    assert book.end(End(1, "FAILED", 5)) is not None
    assert book.end(End(1, "FINISHED", 6)) is None
    assert book.end(End(1, "KILLED", 7), "disappeared") is None
    assert book.get(1).status == "FAILED"  # type: ignore[union-attr]


def test_an_end_that_was_inferred_gives_way_to_one_that_was_said(book: RunBook) -> None:
    started(book)
    assert book.end(End(1, "KILLED", 5), "disappeared") is not None
    assert book.advance(1, Event.REPORTED)
    assert book.advance(1, Event.SETTLED)
    assert book.end(End(1, "KILLED", 6), "disappeared again") is None
    assert book.get(1).closed  # type: ignore[union-attr]
    assert book.end(End(1, "FINISHED", 4)) is not None
    state = book.get(1)
    assert state is not None
    assert (state.status, state.end_reason, state.closed, state.finalized) == ("FINISHED", None, False, False)


def test_an_end_whose_commit_failed_is_written_when_it_comes_again(book: RunBook) -> None:
    started(book)
    end = End(1, "FINISHED", 5)
    assert book.end(end) is not None  # and the commit fails
    encoded = book.end(End(1, "FINISHED", 5))
    assert encoded is not None
    assert msgspec.json.decode(encoded, type=RunState).end == end


def test_the_end_of_an_unknown_run_changes_nothing(book: RunBook) -> None:
    assert book.end(End(9, "FINISHED", 5)) is None
    book.update(9, attempts=1)
    assert not book.advance(9, Event.REPORTED)
    book.note_last({9: 5})
    book.reopen([9])
    assert not book.notice(9, "text")
    assert book.all() == []
    book.touch(9)
    assert book.take_changed() == []


def test_rows_that_come_late_reopen_a_run(book: RunBook) -> None:
    started(book)
    book.end(End(1, "FINISHED", 5))
    book.advance(1, Event.REPORTED)
    for reopen in (lambda: book.reopen([1]), lambda: book.note_last({1: 77})):
        assert book.advance(1, Event.SETTLED)
        assert book.unfinished(None) == []
        reopen()
        assert [state.run for state in book.unfinished(None)] == [1]
    assert book.get(1).last_ns == 77  # type: ignore[union-attr]
    assert book.all_unfinished() == book.all()
    book.note_last({1: 70})
    assert book.get(1).last_ns == 77  # type: ignore[union-attr]


def test_a_successor_finds_the_runs_in_the_order_of_their_start(saved: Saved) -> None:
    book = saved.book()
    for run, at in ((50, 1), (7, 2), (99, 3), (3, 4)):
        book._save(run, book.start(Start(RunSpec(run=run, start_time=at, cwd="/")), "ring"))
    sorted_by_id = {run: saved[run] for run in sorted(saved)}
    assert [state.run for state in RunBook(sorted_by_id, saved.save).all()] == [50, 7, 99, 3]


# -- secrets -----------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=6, max_size=20))
def test_credentials_are_never_in_what_is_saved(secret: str) -> None:
    secret = f"{secret}-secret"
    saved = Saved()
    book = saved.book()
    book.remember({"http://x": f"user:{secret}"})
    said = [book.start(Start(spec(1, tracking_uri="http://x")), "ring")]
    book.update(1, ref=REF)
    said += [book.end(End(1, "FINISHED", 5)) or b"", *saved.values()]
    said.append(msgspec.json.encode(book.status(1, Ledger(), 0.0)))
    assert all(secret.encode() not in text for text in said)
    assert book.credentials("http://x") == f"user:{secret}"
    assert book.credentials(None) is None
    assert saved.book().credentials("http://x") is None


def test_further_credentials_do_not_make_it_forget_the_earlier_ones(book: RunBook) -> None:
    book.remember({"http://x": "user:pw"})
    book.remember({"http://y": "me:pw"})
    assert (book.credentials("http://x"), book.credentials("http://y")) == ("user:pw", "me:pw")


def test_destinations_are_named_once_with_a_working_directory(book: RunBook) -> None:
    started(book, 1, tracking_uri="http://x")
    started(book, 2, tracking_uri="http://x")
    started(book, 3)
    assert sorted(book.destinations(), key=str) == [("http://x", "/"), (None, "/")]


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_notice_is_given_once_and_their_number_is_bounded(book: RunBook) -> None:
    started(book)
    assert book.notice(1, "a")
    assert not book.notice(1, "a")
    told = sum(book.notice(1, f"text {n}") for n in range(1000))
    assert told < 200
    assert len(book.status(1, Ledger(), 0.0).notices) == told + 1


def test_trouble_reaches_the_runs_of_its_destination_and_goes_away(book: RunBook) -> None:
    started(book, 1, tracking_uri="http://x")
    started(book, 2)
    book.take_changed()
    book.trouble("http://x", "down", 55.0)
    status = book.status(1, Ledger(), 0.0)
    assert (status.problem, status.retry_at) == ("down", 55.0)
    assert book.status(2, Ledger(), 0.0).problem is None
    assert book.take_changed() == [1]
    book.trouble("http://x", None)
    assert book.status(1, Ledger(), 0.0).problem is None


def test_the_time_of_the_next_try_is_kept_up_to_date(book: RunBook) -> None:
    started(book, 1)
    book.trouble(None, "down", 55.0)
    book.take_changed()
    book.trouble(None, "down", 70.0)
    assert book.status(1, Ledger(), 0.0).retry_at == 70.0
    assert book.take_changed() == [1]


def test_changes_are_published_once(book: RunBook) -> None:
    started(book, 1)
    started(book, 2)
    assert book.take_changed() == [1, 2]
    assert book.take_changed() == []
    book.touch(2)
    assert book.take_changed() == [2]


@pytest.mark.parametrize(
    "change",
    [
        lambda book: book.note_last({1: 5}),
        lambda book: book.trouble(None, "down"),
        lambda book: book.waiters.upload_failed(1, 7.0),
        lambda book: book.sampled(1, {"s": Samples(1)}),
        lambda book: book.advance(1, Event.LOST, gone="deleted"),
        lambda book: book.notice(1, "text"),
        lambda book: book.waiters.mark(1, "ring", 7),
    ],
    ids=["note_last", "trouble", "upload_failed", "sampled", "advance", "notice", "mark"],
)
def test_nothing_changes_while_states_are_being_written(book: RunBook, change: Callable[[RunBook], object]) -> None:
    started(book)
    changing = threading.Thread(target=change, args=(book,))

    def seen() -> tuple[bytes, float | None, bool]:
        return msgspec.json.encode(book.get(1)), book.waiters.uploads_stalled_since(1), book.waiters.awaited

    with book.steady():
        before = seen()
        changing.start()
        changing.join(0.05)
        assert changing.is_alive()
        assert seen() == before
    changing.join()
    assert seen() != before


def test_threads_may_change_a_book_together(book: RunBook, saved: Saved) -> None:
    for run in range(4):
        started(book, run)
    errors: list[BaseException] = []

    def work(run: int) -> None:
        try:
            for n in range(200):
                book.update(run, attempts=n)
                book.waiters.mark(run, "ring", n)
                book.waiters.set_barriers(n)
                book.settle_marks(lambda _: None)
                book.note_last({run: n})
                book.unfinished(None)
                book.take_changed()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(run,)) for run in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [settled(book, run) for run in range(4)] == [{"ring": 199}] * 4
    assert all(msgspec.json.decode(state, type=RunState).attempts == 199 for state in saved.values())
