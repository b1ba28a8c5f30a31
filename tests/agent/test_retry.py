"""The pause between two tries: bounded, spread, and never shorter than the server asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.retry import LONGEST, Backoff, Portion

SECONDS = st.floats(0.01, 3600)
TIMES = st.floats(0, 1e7)


@given(base=SECONDS, cap=SECONDS, now=TIMES, failures=st.integers(1, 60))
def test_every_pause_lies_between_the_floor_and_the_cap(base: float, cap: float, now: float, failures: int) -> None:
    backoff = Backoff(base, cap)
    for number in range(failures):
        ceiling = min(cap, base * 2 ** min(number, 30))
        ready_at = backoff.failed(now)
        assert ready_at == backoff.ready_at
        assert now + min(Backoff.FLOOR, ceiling) <= ready_at <= now + ceiling
        now = ready_at
    assert backoff.failures == failures


@given(now=TIMES, after=st.floats(0, 86_400), failures=st.integers(0, 20))
def test_what_the_server_asked_for_is_kept_even_beyond_the_cap(now: float, after: float, failures: int) -> None:
    backoff = Backoff(0.5, 30.0)
    for _ in range(failures):
        backoff.failed(now)
    kept = min(after, LONGEST)
    assert backoff.failed(now, after) >= now + kept
    assert backoff.failed(now, after) <= now + max(kept, 30.0)


@given(st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=40))
def test_the_ceiling_doubles_up_to_the_cap_and_a_success_begins_anew(answers: list[float | None]) -> None:
    backoff = Backoff(1, 8, uniform=lambda _, high: high)
    expected = 1.0
    for retry_after in answers:
        assert backoff.failed(0.0, retry_after) == max(expected, retry_after or 0)
        expected = min(8, expected * 2)
    backoff.worked()
    assert (backoff.failures, backoff.ready_at) == (0, 0.0)
    assert backoff.failed(5.0) == 6.0


def test_a_lucky_draw_does_not_hammer() -> None:
    assert Backoff(1, 8, uniform=lambda low, _: low).failed(10.0) == 10.0 + Backoff.FLOOR


def test_the_tries_of_many_clients_are_spread() -> None:
    pauses = {round(Backoff(10, 10).failed(0.0), 3) for _ in range(200)}
    assert len(pauses) > 100


def test_thousands_of_failures_do_not_overflow() -> None:
    backoff = Backoff(0.5, 30.0)
    for _ in range(5000):
        assert backoff.failed(0.0) <= 30.0


def test_a_portion_halves_down_to_the_least_and_grows_again_after_some_that_went_well() -> None:
    portion = Portion(least=250)
    sizes = []
    for _ in range(4):
        portion.too_much(1000)
        sizes.append(portion.of(1000))
    assert sizes == [500, 250, 250, 250]
    for expected in (500, 1000, 1000):
        for _ in range(Portion.PROOF):
            portion.worked(1000)
        assert portion.of(1000) == expected
    assert portion.of(5000) == 5000


def test_a_portion_never_grows_beyond_a_limit_below_its_least() -> None:
    portion = Portion(least=250)
    portion.too_much(100)
    assert portion.of(100) == 100
