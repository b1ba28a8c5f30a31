"""From counters to rates."""

from __future__ import annotations

from tailrace_agent.sampler.rates import Rates


def test_a_rate_needs_two_readings_and_a_counter_that_fell_begins_anew() -> None:
    rates = Rates()
    assert rates.update(10.0, {"a": 100.0, "b": 5.0}) == {}
    assert rates.update(12.0, {"a": 104.0, "b": 1.0, "new": 3.0}) == {"a": 2.0}
    assert rates.update(13.0, {"a": 104.0, "b": 3.0}) == {"a": 0.0, "b": 2.0}


def test_an_update_that_comes_too_soon_is_part_of_the_next() -> None:
    rates = Rates()
    rates.update(10.0, {"a": 0.0})
    assert rates.update(10.01, {"a": 5.0}) == {}
    assert rates.update(11.0, {"a": 10.0}) == {"a": 10.0}
