"""The pace of a store that several threads ask: what one of them finds out holds for all, once."""

from __future__ import annotations

import pytest

from tailrace_agent.delivery.pace import Pace

LIMIT = 1000


@pytest.fixture
def recovered() -> list[int]:
    return []


@pytest.fixture
def pace(recovered: list[int]) -> Pace:
    return Pace(30.0, 25, recovered.append)


def test_requests_that_were_under_way_together_fail_once(pace: Pace) -> None:
    turns = [pace.turn() for _ in range(4)]
    times = {turn.failed(now=100.0) for turn in turns}
    assert pace.failures == 1
    assert times == {pace.ready_at}
    pace.turn().failed(now=200.0)
    assert pace.failures == 2


def test_the_longest_wait_that_any_of_them_was_told_is_kept(pace: Pace) -> None:
    one, other = pace.turn(), pace.turn()
    one.failed(now=100.0)
    assert other.failed(now=100.0, retry_after=60.0) == 160.0
    assert pace.ready_at == 160.0


def test_an_answer_to_what_was_asked_before_a_failure_does_not_end_the_wait(pace: Pace, recovered: list[int]) -> None:
    one, other = pace.turn(), pace.turn()
    one.failed(now=100.0, retry_after=60.0)
    other.worked()
    assert (pace.ready_at, pace.failures, recovered) == (160.0, 1, [])
    pace.turn().worked()
    assert (pace.ready_at, pace.failures, recovered) == (0.0, 0, [1])


def test_a_store_that_was_away_or_is_too_slow_is_asked_by_one_alone(pace: Pace) -> None:
    assert not pace.by_one
    pace.turn().failed(now=100.0)
    assert pace.by_one
    pace.turn().worked()
    assert not pace.by_one
    pace.carried(1000, LIMIT, too_much=True)
    assert pace.by_one
    for _ in range(8):
        pace.carried(500, LIMIT, too_much=False)
    assert not pace.by_one


def test_full_requests_that_were_too_much_together_are_halved_once(pace: Pace) -> None:
    for _ in range(4):
        pace.carried(1000, LIMIT, too_much=True)
    assert pace.portion(LIMIT) == 500
    pace.carried(500, LIMIT, too_much=True)
    assert pace.portion(LIMIT) == 250


def test_who_has_nothing_to_ask_leaves_the_store_to_others(pace: Pace) -> None:
    pace.turn().failed(now=100.0, retry_after=60.0)
    pace.rest()
    assert (pace.failures, pace.ready_at) == (0, 0.0)
