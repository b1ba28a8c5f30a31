"""A run is served by one thread at a time."""

from __future__ import annotations

import pytest

from tailrace_agent.delivery.claims import Claims


def test_a_run_is_served_once_at_a_time_and_others_beside_it() -> None:
    claims, asked = Claims(), list[int]()

    def wanted(others: int) -> bool:
        asked.append(others)
        return True

    with claims.serving(1, wanted) as first, claims.serving(1, wanted) as again, claims.serving(2, wanted) as other:
        assert (first, again, other) == (True, False, True)
    assert asked == [0, 1]
    with claims.serving(1, wanted) as later:
        assert later


def test_what_is_not_wanted_is_not_served_and_left_for_others() -> None:
    claims = Claims()
    with claims.serving(1, lambda _: False) as unwanted, claims.serving(1, lambda _: True) as wanted:
        assert (unwanted, wanted) == (False, True)


def test_a_fault_gives_the_run_back() -> None:
    claims = Claims()
    with pytest.raises(OSError, match="full"), claims.serving(1, lambda _: True):
        raise OSError("full")
    with claims.serving(1, lambda _: True) as ours:
        assert ours
