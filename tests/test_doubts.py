"""What a lost answer has brought is told from the latest metrics alone, and never wrongly."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace_agent.doubts import Doubts, Rank, rank_of
from tailrace_agent.records import Point


def latest_of(rows: set[Point]) -> dict[str, Rank]:
    """As MLflow keeps it."""
    found: dict[str, Rank] = {}
    for row in rows:
        rank = rank_of(row.step, row.timestamp, row.value)
        found[row.key] = max(rank, found.get(row.key, rank))
    return found


def points(first: int, last: int, key: str = "loss") -> list[Point]:
    return [Point(key, step / 2, 1000 + step, step) for step in range(first, last)]


def doubts_after(first: list[Point]) -> Doubts:
    doubts = Doubts()
    doubts.accepted(first)
    doubts.settled()
    return doubts


def test_a_request_that_arrived_is_not_sent_again() -> None:
    doubts = doubts_after(points(0, 10))
    doubts.unanswered(points(10, 20))
    assert doubts.open
    doubts.look(latest_of({*points(0, 20)}))
    assert doubts.left(points(10, 25)) == points(20, 25)
    doubts.settled()
    assert not doubts.open
    assert doubts.left(points(10, 25)) == points(10, 25)


def test_a_request_that_did_not_arrive_is_sent_again() -> None:
    doubts = doubts_after(points(0, 10))
    doubts.unanswered(points(10, 20))
    doubts.look(latest_of({*points(0, 10)}))
    assert doubts.left(points(10, 20)) == points(10, 20)


def test_of_two_requests_that_fit_only_what_both_brought_is_taken_as_stored() -> None:
    doubts = doubts_after([*points(0, 10), *points(0, 10, "other")])
    small, more = points(10, 20), points(5, 9, "other")  # steps that go back tell nothing
    doubts.unanswered([*small, *more])
    doubts.unanswered(small)
    doubts.look(latest_of({*points(0, 20), *points(0, 10, "other")}))
    assert doubts.left([*small, *more]) == more


def test_what_cannot_be_told_is_sent_again() -> None:
    doubts = Doubts()  # a new agent
    doubts.unanswered(points(10, 20))
    doubts.look(latest_of({*points(0, 20)}))
    assert doubts.left(points(10, 20)) == points(10, 20)


def test_parts_that_were_accepted_are_not_sent_again_with_the_rest_of_their_batch() -> None:
    doubts = doubts_after(points(0, 10))
    doubts.accepted(points(10, 15))
    doubts.unanswered(points(15, 20))
    assert doubts.left(points(10, 20)) == points(15, 20)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_mlflow_keeps_as_others_are_recognized(value: float) -> None:
    doubts = doubts_after(points(0, 10))
    odd = [Point("loss", value, 1010, 10)]
    doubts.unanswered(odd)
    doubts.look(latest_of({*points(0, 10), *odd}))
    assert doubts.left(odd) == []


def test_after_too_many_unanswered_requests_nothing_is_told_until_one_is_answered() -> None:
    doubts = doubts_after(points(0, 10))
    for last in range(11, 60):
        doubts.unanswered(points(10, last))
    assert not doubts.open
    doubts.settled()
    doubts.unanswered(points(10, 20))
    assert doubts.open


BATCHES = st.lists(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.integers(0, 3), st.integers(0, 2)), max_size=6),
    min_size=1,
    max_size=6,
)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), batches=BATCHES)
def test_whatever_is_lost_nothing_is_left_out_that_the_store_has_not(
    data: st.DataObject, batches: list[list[tuple[str, int, int, int]]]
) -> None:
    doubts, rows, delivered = Doubts(), set[Point](), set[Point]()
    for batch in batches:
        wanted = list(dict.fromkeys(Point(key, float(value), time, step) for key, step, time, value in batch))
        wanted = [point for point in wanted if point not in delivered]
        while True:
            if doubts.open:
                doubts.look(latest_of(rows))
            size = data.draw(st.integers(1, 6))  # smaller and larger, as the portion has it
            request = doubts.left(wanted[:size])
            assert set(wanted[:size]) - set(request) <= rows
            fate = data.draw(st.sampled_from(["answered", "lost after", "lost before"])) if request else "answered"
            if fate != "lost before":
                rows |= set(request)
            if fate != "answered":
                doubts.unanswered(request)
                continue
            doubts.accepted(request)
            doubts.settled()
            delivered |= set(wanted[:size])
            wanted = wanted[size:]
            if not wanted:
                break
    assert rows == delivered
