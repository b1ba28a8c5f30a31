"""The artifacts that wait, and those among them that have failed."""

from __future__ import annotations

import pytest

from helpers.spools import block, put
from tailrace_agent.spool.blocks import Outcome
from tailrace_agent.spool.store import Spool


@pytest.fixture
def waiting(spool: Spool) -> list[int]:
    """Three artifacts of run 1 and one of run 2; their ids."""
    put(spool, *(block(1, kind="artifact") for _ in range(3)), block(1, run=2, kind="artifact"), block(5))
    return [found.id for found in spool.artifacts.all(failed=False)]


def test_artifacts_come_one_by_one_the_oldest_first_and_some_can_be_passed_over(
    spool: Spool, waiting: list[int]
) -> None:
    def following(run: int, but: set[int]) -> int | None:
        found = spool.artifacts.next(run, but)
        return None if found is None else found.id

    first, second, third, other = waiting
    assert following(1, set()) == first
    assert following(1, {first, third}) == second
    assert following(1, {first, second, third}) is None
    assert following(2, {first}) == other


def test_what_has_failed_is_known_with_its_reason_until_it_is_sent_again(spool: Spool, waiting: list[int]) -> None:
    first, second, *_ = waiting
    spool.artifacts.failed(first, 1, "no room")
    spool.artifacts.failed(first, 2, "no room at all")
    spool.artifacts.failed(second, 1, "no room")
    spool.artifacts.failed(10_000, 1, "of nobody")
    assert spool.artifacts.failures() == {first: 2, second: 1}
    assert [(it.id, it.reason) for it in spool.artifacts.all(failed=True)] == [
        (first, "no room at all"),
        (second, "no room"),
    ]
    spool.artifacts.send_again(first, b"another record")
    assert spool.artifacts.failures() == {second: 1}
    again = spool.artifacts.next(1, set())
    assert again is not None
    assert (again.id, again.body) == (first, b"another record")


def test_an_artifact_that_is_settled_has_not_failed(spool: Spool, waiting: list[int]) -> None:
    spool.artifacts.failed(waiting[0], 3, "no room")
    spool.settle(Outcome(1, "artifact", [waiting[0]], 1))
    assert spool.artifacts.failures() == {}
    assert [it.id for it in spool.artifacts.all(failed=False)] == waiting[1:]
    assert {it.at for it in spool.artifacts.all(failed=False)} == {0.0}, "none of them has failed"
