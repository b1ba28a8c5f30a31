"""The run book: how a run ends, who waits, and what is never written down."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc.records import End, LogCost, RunSpec, Samples, Start
from tailrace_agent.ledger import Ledger
from tailrace_agent.sinks.base import RunRef

REF = RunRef("abc", "0", "name", "http://x/abc")


class Saved(dict[int, bytes]):
    """What is in the spool."""

    def save(self, run: int, state: bytes) -> None:
        self[run] = state

    def book(self) -> RunBook:
        return RunBook(self, self.save)


@pytest.fixture
def saved() -> Saved:
    return Saved()


@pytest.fixture
def book(saved: Saved) -> RunBook:
    return saved.book()


def spec(run: int = 1, **changes: object) -> RunSpec:
    return RunSpec(run=run, start_time=1000 + run, cwd="/", **changes)  # type: ignore[arg-type]


def started(book: RunBook, run: int = 1, **changes: object) -> None:
    book._save(run, book.start(Start(spec(run, **changes)), "ring"))


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
    book.note_last({1: 70})
    assert book.get(1).last_ns == 77  # type: ignore[union-attr]


def test_a_successor_finds_the_runs_in_the_order_of_their_start(saved: Saved) -> None:
    book = saved.book()
    for run, at in ((50, 1), (7, 2), (99, 3), (3, 4)):
        book._save(run, book.start(Start(RunSpec(run=run, start_time=at, cwd="/")), "ring"))
    sorted_by_id = {run: saved[run] for run in sorted(saved)}
    assert [state.run for state in RunBook(sorted_by_id, saved.save).all()] == [50, 7, 99, 3]


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff\xfe", b"[]", b'{"spec": 1, "ring": "r"}'])
def test_a_state_whose_bytes_are_damaged_costs_no_other_run_and_is_still_a_run(saved: Saved, damaged: bytes) -> None:
    book = saved.book()
    for run in (1, 2):
        started(book, run)
    saved[1] = damaged
    assert {state.run: state.rebuilt for state in saved.book().all()} == {1: True, 2: False}


@given(st.data())
def test_whatever_one_field_of_a_state_holds_the_others_stay(data: st.DataObject) -> None:
    saved = Saved()
    book = saved.book()
    started(book, tracking_uri="http://x")
    book.update(1, ref=REF, attempts=2, notices=["n"], samples={"s": Samples(3, {"j": 1.0})})
    raw = msgspec.json.decode(saved[1])
    field = data.draw(st.sampled_from([*raw, *(f"spec.{name}" for name in raw["spec"])]))
    inside, _, name = field.rpartition(".")
    value = data.draw(st.none() | st.integers() | st.text() | st.lists(st.integers()) | st.just({"a": 2**70}))
    (raw["spec"] if inside else raw)[name] = value
    saved[1] = json.dumps(raw).encode()
    (state,) = saved.book().all()
    assert (state.run, state.spec.run) == (1, 1)
    assert field == "ref" or state.ref == REF
    assert field in ("spec", "spec.tracking_uri") or state.spec.tracking_uri == "http://x"
    assert field == "samples" or state.samples == {"s": Samples(3, {"j": 1.0})}
    assert not state.rebuilt or field.startswith("spec")
    book._save(1, msgspec.json.encode(state))
    assert saved.book().all() == [state]


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_is_no_finite_number_is_never_written(saved: Saved, number: float) -> None:
    book = saved.book()
    started(book)
    book.trouble(None, "down", number)
    book.sampled(1, {"s": Samples(3, {"j": number, "k": 1.0})})
    state = msgspec.json.decode(saved[1], type=RunState)
    assert (state.retry_at, state.samples) == (0.0, {"s": Samples(3, {"j": 0.0, "k": 1.0})})


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


# -- who waits ---------------------------------------------------------------------------------------------------------


def settled(book: RunBook, run: int = 1) -> dict[str, int]:
    return book.status(run, Ledger(), 0.0).settled


def test_a_flush_is_answered_when_nothing_up_to_its_barrier_waits(book: RunBook) -> None:
    started(book)
    book.waiters.mark(1, "ring", 7)
    assert book.urgent(1)
    assert book.waiters.unset_barriers
    assert not book.settle_marks(lambda _: None)  # not before its barrier is known
    book.waiters.set_barriers(20)
    assert not book.waiters.unset_barriers
    assert not book.settle_marks(lambda _: 20)
    assert settled(book) == {}
    assert book.settle_marks(lambda _: 21)
    assert settled(book) == {"ring": 7}
    assert not book.waiters.awaited
    assert not book.urgent(1)


def test_a_later_barrier_does_not_move_an_earlier_one(book: RunBook) -> None:
    started(book)
    book.waiters.mark(1, "ring", 1)
    book.waiters.set_barriers(10)
    book.waiters.mark(1, "ring", 2)
    book.waiters.set_barriers(30)
    assert book.settle_marks(lambda _: 11)
    assert settled(book) == {"ring": 1}
    assert book.waiters.awaited is True
    assert book.settle_marks(lambda _: None)
    assert settled(book) == {"ring": 2}


def test_tokens_never_go_back_and_rings_are_kept_apart(book: RunBook) -> None:
    started(book)
    for ring, token in (("a", 5), ("b", 1), ("a", 3)):
        book.waiters.mark(1, ring, token)
    book.waiters.set_barriers(0)
    book.settle_marks(lambda _: None)
    assert settled(book) == {"a": 5, "b": 1}


def test_after_the_end_a_flush_is_answered_when_mlflow_knows_it(book: RunBook) -> None:
    changes = (
        partial(book.advance, event=Event.REPORTED),
        partial(book.advance, event=Event.LOST, gone="deleted"),
        partial(book.update, refused="no such store"),
    )
    for run, change in enumerate(changes, 1):
        started(book, run)
        book.end(End(run, "FINISHED", 5))
        book.waiters.mark(run, "ring", 1)
        book.waiters.set_barriers(0)
        assert not book.settle_marks(lambda _: None)
        change(run)
        assert book.settle_marks(lambda _: None)
        assert settled(book, run) == {"ring": 1}


def test_one_run_does_not_keep_another_waiting(book: RunBook) -> None:
    started(book, 1)
    started(book, 2)
    book.waiters.mark(1, "ring", 1)
    book.waiters.mark(2, "ring", 1)
    book.waiters.set_barriers(10)
    assert book.settle_marks(lambda run: 5 if run == 1 else None)
    assert (settled(book, 1), settled(book, 2)) == ({}, {"ring": 1})


@given(st.lists(st.tuples(st.sampled_from("mbs"), st.integers(0, 30)), max_size=40))
def test_whoever_is_answered_waits_for_nothing_any_more(operations: list[tuple[str, int]]) -> None:
    book = Saved().book()
    started(book)
    token = first = last = 0
    barrier_of: dict[int, int] = {}
    for what, n in operations:
        if what == "m":
            token += 1
            book.waiters.mark(1, "ring", token)
        elif what == "b":
            last = max(last, n)
            book.waiters.set_barriers(last)
            barrier_of.update({t: last for t in range(1, token + 1) if t not in barrier_of})
        else:
            first = max(first, n)
            book.settle_marks(lambda _, first=first: first)  # type: ignore[misc]
            answered = settled(book).get("ring", 0)
            expected = [t for t, barrier in barrier_of.items() if barrier < first]
            assert answered == max(expected, default=0)


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


def test_the_status_shows_what_is_known(book: RunBook) -> None:
    started(book)
    status = book.status(1, Ledger(calls=3), 1.5)
    assert (status.run_id, status.status, status.closed, status.lag, status.ledger.calls) == (
        None,
        "RUNNING",
        False,
        1.5,
        3,
    )
    book.update(1, ref=REF)
    book.end(End(1, "FINISHED", 5, LogCost(1, 2, 3)))
    status = book.status(1, Ledger(), 0.0)
    assert (status.run_id, status.run_name, status.url, status.cost) == ("abc", "name", REF.url, LogCost(1, 2, 3))


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
