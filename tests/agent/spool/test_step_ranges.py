"""Which steps there were: exact for any order, and small for those that a training counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.spool.step_ranges import StepRanges


@given(st.lists(st.integers(-1000, 1000), max_size=200))
def test_all_that_were_added_are_in_it_and_no_others(steps: list[int]) -> None:
    ranges = StepRanges()
    for step in steps:
        ranges.add(step)
    again = StepRanges(ranges.stored)
    assert {step for step in range(-1100, 1100) if step in again} == set(steps)


def test_a_training_that_logs_each_tenth_step_is_one_range() -> None:
    ranges = StepRanges()
    for step in range(0, 1_000_000, 10):
        ranges.add(step)
    assert ranges.stored == [[0, 999_990, 10]]


def test_of_steps_without_order_the_oldest_are_forgotten() -> None:
    ranges = StepRanges()
    for step in range(3000):
        ranges.add(step * step % 7919)
    assert len(ranges.stored) <= 1000
