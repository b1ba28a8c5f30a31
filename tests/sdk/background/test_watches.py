"""Values that are ready later: how often they are polled, and who waits until they are there."""

from __future__ import annotations

import pytest

from tailrace._background.watches import FASTEST, QUIET, SLOWEST, SLOWEST_DRAINING, Barrier, Watch, Watches


class Value:
    """Ready when the test says so; counts how often it was polled."""

    def __init__(self) -> None:
        self.is_there = False
        self.polls = 0
        self.events: list[object] = []

    def ready(self) -> bool:
        self.polls += 1
        return self.is_there

    def watch(self) -> Watch:
        return Watch(self.ready, lambda: self.events.append("done"), self.events.append)


def intervals(watches: Watches, now: float, count: int) -> list[float]:
    found = []
    for _ in range(count):
        deadline = watches.deadline
        assert deadline is not None
        found.append(deadline - now)
        now = deadline
        watches.poll(now)
    return found


def test_a_watch_is_polled_ever_more_rarely_up_to_a_bound() -> None:
    watches = Watches()
    watches.begin(Value().watch(), 10.0)
    found = intervals(watches, 10.0, 10)
    assert found[:3] == pytest.approx([FASTEST, 2 * FASTEST, 4 * FASTEST])
    assert found[-2:] == pytest.approx([SLOWEST, SLOWEST])


def test_nothing_is_polled_before_it_is_time_or_when_there_is_nothing() -> None:
    watches, value = Watches(), Value()
    assert watches.deadline is None
    watches.poll(99.0)
    watches.begin(value.watch(), 10.0)
    watches.poll(10.0)
    assert value.polls == 0


def test_a_value_soon_after_another_one_does_not_begin_quickly_again_and_one_after_quiet_does() -> None:
    for pause, interval in ((QUIET / 2, 4 * FASTEST), (QUIET, FASTEST)):
        watches, value = Watches(), Value()
        watches.begin(value.watch(), 0.0)
        watches.poll(1.0)
        value.is_there = True
        watches.poll(2.0)
        assert value.events == ["done"]
        watches.begin(Value().watch(), 2.0 + pause)
        assert watches.deadline == pytest.approx(2.0 + pause + interval)


def test_a_barrier_waits_for_what_was_there_before_it_and_speeds_up_the_polls() -> None:
    watches, before, after, barrier = Watches(), Value(), Value(), Barrier()
    watches.begin(before.watch(), 0.0)
    intervals(watches, 0.0, 10)
    watches.wait(barrier, 5.0)
    watches.begin(after.watch(), 5.0)
    assert max(intervals(watches, 5.0, 8)[1:]) == pytest.approx(SLOWEST_DRAINING)
    assert not barrier.passed.is_set()
    before.is_there = True
    watches.poll(9.0)
    assert barrier.passed.is_set()
    assert len(watches) == 1


def test_a_barrier_with_nothing_before_it_passes_at_once() -> None:
    watches, barrier = Watches(), Barrier()
    watches.wait(barrier, 0.0)
    assert barrier.passed.is_set()


def test_what_raises_is_over_and_is_reported_once_also_by_a_handler_that_raises_itself() -> None:
    value, watches = Value(), Watches()

    def broken() -> bool:
        raise OSError("the device is gone")

    def handler(error: BaseException) -> None:
        value.events.append(str(error))
        raise RuntimeError

    watches.begin(Watch(broken, broken, handler), 0.0)
    watches.poll(1.0)
    watches.poll(2.0)
    assert value.events == ["the device is gone"]
    assert len(watches) == 0
