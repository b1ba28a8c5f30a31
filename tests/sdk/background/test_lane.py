"""The deferred lane: jobs in order, values when they are ready, a thread that nothing ends."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any

import pytest

from tailrace._background.lane import Lane


def ignore(_: BaseException) -> None:
    """An error handler for work that does not fail."""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def still(clock: Clock) -> Lane:
    """A lane without a thread: the test is the thread."""
    return Lane(4, watch_capacity=64, clock=clock, threaded=False)


def test_jobs_run_in_the_order_in_which_they_were_submitted(still: Lane, clock: Clock) -> None:
    done: list[int] = []
    for number in range(4):
        assert still.submit(lambda number=number: done.append(number), on_error=ignore)  # type: ignore[misc]
    assert done == []
    assert still.step(clock.now) is None
    assert done == [0, 1, 2, 3]


def test_a_full_lane_runs_the_job_on_the_caller_and_loses_nothing(still: Lane, clock: Clock) -> None:
    done: list[int] = []
    ran = [still.submit(lambda n=n: done.append(n), on_error=ignore) for n in range(6)]  # type: ignore[misc]
    assert ran == [True] * 4 + [False] * 2
    assert done == [4, 5]
    still.step(clock.now)
    assert sorted(done) == list(range(6))


def test_a_full_lane_refuses_a_watch_and_says_so(still: Lane) -> None:
    taken = [still.watch(lambda: False, lambda: None, on_error=ignore) for _ in range(66)]
    assert taken == [True] * 64 + [False] * 2


def test_a_watch_is_asked_ever_more_rarely_and_its_end_is_told_once(still: Lane, clock: Clock) -> None:
    asked: list[float] = []
    ready: list[bool] = []
    done: list[int] = []

    def ask() -> bool:
        asked.append(clock.now)
        return bool(ready)

    still.watch(ask, lambda: done.append(1), on_error=ignore)
    deadline = still.step(clock.now)
    while deadline is not None and len(asked) < 12:
        clock.now = deadline
        deadline = still.step(clock.now)
    gaps = [later - earlier for earlier, later in zip([100.0, *asked], asked, strict=False)]
    assert gaps[0] == pytest.approx(0.0002)
    assert gaps[1] == pytest.approx(0.0004)
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(0.02)
    ready.append(True)
    assert deadline is not None
    clock.now = deadline
    assert still.step(clock.now) is None
    assert done == [1]
    clock.now += 1
    assert still.step(clock.now) is None
    assert done == [1]


def test_a_steady_stream_of_watches_costs_few_wakings_and_quiet_starts_anew(still: Lane, clock: Clock) -> None:
    """A value every millisecond, each ready at once: some fifty askings a second, not thousands."""
    asked: list[float] = []
    deadline: float | None = None
    for _ in range(1000):
        still.watch(lambda: not asked.append(clock.now), lambda: None, on_error=ignore)
        if deadline is None:
            deadline = still.step(clock.now)
        clock.now += 0.001
        while deadline is not None and deadline <= clock.now:
            deadline = still.step(clock.now)
    assert len(set(asked)) < 80
    while still.step(clock.now) is not None:
        clock.now += 1.0
    clock.now += 1.0
    still.watch(lambda: True, lambda: None, on_error=ignore)
    assert still.step(clock.now) == pytest.approx(clock.now + 0.0002)


def test_watches_are_asked_between_jobs(still: Lane, clock: Clock) -> None:
    order: list[str] = []

    def slow_job() -> None:
        order.append("job")
        clock.now += 5.0

    still.watch(lambda: True, lambda: order.append("value"), on_error=ignore)
    still.submit(slow_job, on_error=ignore)
    still.submit(slow_job, on_error=ignore)
    still.step(clock.now)
    assert order == ["job", "value", "job"]


def test_what_fails_is_told_and_the_rest_goes_on(still: Lane, clock: Clock) -> None:
    errors: list[str] = []
    done: list[str] = []

    def tell(error: BaseException) -> None:
        errors.append(str(error))
        raise RuntimeError("the handler fails too")

    def fail(words: str) -> Any:
        def failing() -> bool:
            raise SystemExit(words)

        return failing

    still.submit(fail("job"), on_error=tell)
    still.watch(fail("ready"), lambda: None, on_error=tell)
    still.watch(lambda: True, fail("done"), on_error=tell)
    still.submit(lambda: done.append("job"), on_error=tell)
    still.step(clock.now)
    clock.now += 1
    assert still.step(clock.now) is None
    assert errors == ["job", "ready", "done"]
    assert done == ["job"]


def test_an_error_of_a_job_on_the_caller_is_told_and_ctrl_c_goes_through() -> None:
    lane, errors = Lane(0, threaded=False), []

    def fail(error: BaseException) -> Any:
        def failing() -> None:
            raise error

        return failing

    lane.submit(fail(ValueError("x")), on_error=errors.append)
    with pytest.raises(KeyboardInterrupt):
        lane.submit(fail(KeyboardInterrupt()), on_error=errors.append)
    assert [type(error) for error in errors] == [ValueError, KeyboardInterrupt]


def test_draining_waits_for_what_was_submitted_before_and_for_nothing_later() -> None:
    lane = Lane()
    done: list[str] = []
    gate, later = threading.Event(), threading.Event()
    lane.watch(gate.is_set, lambda: done.append("value"), on_error=ignore)
    lane.submit(lambda: done.append("job"), on_error=ignore)
    assert not lane.drain(0.02)
    gate.set()
    lane.watch(later.is_set, lambda: done.append("later"), on_error=ignore)
    # The watch that comes later than the drain is not waited for.
    waiting = threading.Thread(target=later.set)
    assert not lane.drain(0.02)
    assert sorted(done) == ["job", "value"]
    waiting.start()
    assert lane.drain(10)
    assert done[-1] == "later"


def test_a_barrier_does_not_wait_for_watches_behind_it(still: Lane, clock: Clock) -> None:
    from tailrace._background.watches import Barrier

    first: list[bool] = []
    still.watch(lambda: bool(first), lambda: None, on_error=ignore)
    barrier = Barrier()
    still._inbox.append(barrier)
    still.watch(lambda: False, lambda: None, on_error=ignore)
    still.step(clock.now)
    assert not barrier.passed.is_set()
    first.append(True)
    clock.now += 1
    assert still.step(clock.now) is not None
    assert barrier.passed.is_set()


def test_an_unused_lane_has_no_thread_and_drains_at_once() -> None:
    before = threading.active_count()
    lane = Lane()
    assert lane.drain()
    assert threading.active_count() == before


def test_one_thread_does_all_the_work_and_sleeps_without_asking() -> None:
    lane = Lane()
    idents: set[int] = set()
    for _ in range(50):
        lane.submit(lambda: idents.add(threading.get_ident()), on_error=ignore)
        lane.watch(lambda: True, lambda: idents.add(threading.get_ident()), on_error=ignore)
    assert lane.drain(10)
    assert len(idents) == 1
    assert idents != {threading.get_ident()}
    steps: list[float] = []
    really = lane.step
    lane.step = lambda now: (steps.append(now), really(now))[1]  # type: ignore[method-assign]
    time.sleep(0.1)
    assert steps == []
    lane.submit(lambda: None, on_error=ignore)
    assert lane.drain(10)
    assert steps


def test_many_threads_submit_at_once_and_nothing_is_lost() -> None:
    lane = Lane(capacity=100)
    done: list[int] = []

    def work(worker: int) -> None:
        for number in range(500):
            if number % 2:
                lane.submit(lambda: done.append(1), on_error=ignore)
            else:
                assert lane.watch(lambda: True, lambda: done.append(1), on_error=ignore)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lane.drain(30)
    assert len(done) == 2000


def test_a_job_may_submit_another_and_does_not_wait_for_itself() -> None:
    lane = Lane()
    said: list[object] = []

    def outer() -> None:
        lane.submit(lambda: said.append("inner"), on_error=ignore)
        said.append(lane.drain(60))

    lane.submit(outer, on_error=ignore)
    assert lane.drain(10)
    assert lane.drain(10)
    assert said == [False, "inner"]


@pytest.mark.slow
def test_signal_handlers_and_finalizers_may_submit_in_the_middle_of_a_submit() -> None:
    lane = Lane(capacity=64)
    done: list[str] = []
    submitted = {"signal": 0, "finalizer": 0, "loop": 0}

    class Finalized:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            submitted["finalizer"] += 1
            lane.submit(lambda: done.append("finalizer"), on_error=ignore)

    def handler(*_: Any) -> None:
        submitted["signal"] += 1
        lane.submit(lambda: done.append("signal"), on_error=ignore)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        end = time.monotonic() + 0.15
        while time.monotonic() < end or submitted["signal"] < 20:
            submitted["loop"] += 1
            Finalized()
            lane.submit(lambda: done.append("loop"), on_error=ignore)
            if submitted["loop"] % 500 == 0:
                gc.collect()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    gc.collect()
    assert lane.drain(30)
    assert {what: done.count(what) for what in submitted} == submitted


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_a_fresh_lane_and_the_parents_jobs_stay_the_parents() -> None:
    lane = Lane()
    gate = threading.Event()
    done: list[str] = []
    lane.submit(gate.wait, on_error=ignore)  # type: ignore[arg-type]
    lane.submit(lambda: done.append("parent"), on_error=ignore)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            lane.submit(lambda: done.append("child"), on_error=ignore)
            drained = lane.drain(10)
            code = 0 if drained and done == ["child"] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    gate.set()
    assert lane.drain(10)
    assert done == ["parent"]


@pytest.mark.slow
def test_a_lane_that_nobody_uses_any_more_is_forgotten() -> None:
    import weakref

    lane = Lane()
    ref = weakref.ref(lane)
    del lane
    gc.collect()
    assert ref() is None


def test_where_no_thread_can_be_started_the_caller_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    lane = Lane()
    done: list[str] = []
    assert not lane.submit(lambda: done.append("job"), on_error=ignore)
    assert done == ["job"]
    assert not lane.watch(lambda: True, lambda: None, on_error=ignore)
    assert lane.drain(1)


class LastTaken(deque[Any]):
    """An inbox whose last entry the lane's thread takes, just before somebody else does."""

    def popleft(self) -> Any:
        if len(self) == 1:
            self.clear()
        return super().popleft()


def test_what_the_thread_takes_while_the_rest_is_abandoned_raises_nothing(still: Lane) -> None:
    errors: list[str] = []
    still._inbox = LastTaken()
    for _ in range(3):
        still.submit(lambda: None, on_error=lambda error: errors.append(str(error)))
    still.abandon("the program has ended")
    assert errors == ["the program has ended"] * 2


def test_a_lane_can_be_drained_at_exit() -> None:
    script = """
import atexit
from tailrace._background.lane import LANE

def last():
    LANE.submit(lambda: print("at exit"), on_error=print)
    print(LANE.drain(5))

atexit.register(last)
LANE.submit(lambda: print("before"), on_error=print)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n")[:3] == ["before", "at exit", "True"]
    assert done.stderr == ""
