"""Who waits is answered when nothing that came before waits any more."""

from __future__ import annotations

import threading
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from helpers.run_books import Saved, settled, spec, started
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.delivery.waiters import Waiters
from tailrace_agent.ipc.records import End


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


# -- uploads ---------------------------------------------------------------------------------------------------------


def waiters(*ended: int) -> Waiters:
    return Waiters(threading.RLock(), ended)


def test_uploads_stall_from_the_first_failure_after_the_last_that_worked() -> None:
    found = waiters()
    assert found.uploads_stalled_since(1) is None
    found.upload_failed(1, 10.0)
    found.upload_failed(1, 20.0)
    assert (found.uploads_stalled_since(1), found.uploads_stalled_since(2)) == (10.0, None)
    found.uploads_work(1)
    found.uploads_work(1)
    assert found.uploads_stalled_since(1) is None
    found.upload_failed(1, 30.0)
    assert found.uploads_stalled_since(1) == 30.0


def test_the_end_of_a_run_waits_for_a_look_at_every_ring_and_so_does_one_that_an_earlier_agent_has_seen() -> None:
    found = waiters(1)
    found.end(2)
    assert [found.end_barrier(run) for run in (1, 2, 3)] == [None, None, 0]
    assert found.unset_barriers
    found.set_barriers(7)
    found.set_barriers(9)
    assert [found.end_barrier(run) for run in (1, 2, 3)] == [7, 7, 0]
    assert not found.unset_barriers


def test_a_mark_of_a_run_that_nobody_knows_waits_for_it() -> None:
    found, changed = waiters(), set[int]()
    found.mark(1, "ring", 5)
    found.set_barriers(0)
    assert not found.settle({}, lambda _: None, changed)
    assert (found.waited_for(1), changed) == (True, set())
    assert found.settle({1: RunState(spec=spec(), ring="ring")}, lambda _: None, changed)
    assert (found.waited_for(1), changed, found.settled(1)) == (False, {1}, {"ring": 5})
