"""What is said of a run beside its status."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tailrace._runs.reports import log_cost, message_of

SLOW: Any = SimpleNamespace(calls=2, took_ns=30, halves=1)


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError


def test_a_message_is_without_secrets_and_no_longer_than_a_tag() -> None:
    assert len(message_of(ValueError("x" * 20_000))) == 5000
    assert "hunter2" not in message_of(ValueError("postgresql://me:hunter2@host/db"))
    assert message_of(Mute()) == "(its message cannot be had: ValueError)"


def test_the_cost_is_the_median_of_what_was_timed() -> None:
    cost = log_cost([9, 1, 5], 100, SLOW)
    assert (cost.samples, cost.typical_ns, cost.wall_ns, cost.odd, cost.odd_ns, cost.halves) == (3, 5, 100, 2, 30, 1)
    assert log_cost([], 100, SLOW).typical_ns == 0
