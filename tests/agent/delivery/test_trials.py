"""Trials: a failure counts against an item only when the store has taken something else meanwhile."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.delivery.trials import Trials


def test_a_failure_counts_only_if_something_got_through_since_the_one_before() -> None:
    trials = Trials(cap=30.0)
    for _ in range(3):
        trials.failed(1, 0.0)
    assert (trials.failures(1), trials.counted(1)) == (3, 0)
    trials.worked(2)
    trials.failed(1, 0.0)
    trials.failed(1, 0.0)
    assert trials.counted(1) == 1
    trials.worked()
    trials.failed(1, 0.0)
    assert trials.counted(1) == 2
    trials.worked(1)
    assert (trials.failures(1), trials.counted(1)) == (0, 0)


def test_what_has_failed_rests_and_is_ready_later() -> None:
    trials = Trials(cap=30.0)
    ready = trials.failed(1, 100.0, retry_after=7.0)
    assert ready == 107.0
    assert trials.resting(106.9) == {1}
    assert trials.next_ready({1}) == 107.0
    assert trials.resting(107.0) == set()
    trials.failed(2, 100.0)
    trials.forget(2)
    assert trials.resting(100.0) == {1}


@given(st.lists(st.tuples(st.sampled_from(["failed", "worked"]), st.integers(0, 3))))
def test_nothing_is_ever_counted_while_nothing_gets_through(events: list[tuple[str, int]]) -> None:
    trials, successes = Trials(cap=30.0), 0
    for what, item in events:
        if what == "failed":
            trials.failed(item, 0.0)
        else:
            trials.worked(item)
            successes += 1
        assert all(trials.counted(item) <= successes for item in range(4))
