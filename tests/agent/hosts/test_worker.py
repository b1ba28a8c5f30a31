"""A worker calls its step on time and outlives whatever the step raises."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.hosts import worker as module
from tailrace_agent.hosts.worker import Worker


class Steps:
    """Steps that can be counted and awaited."""

    def __init__(self, result: Callable[[int], float]) -> None:
        self.count, self._result, self._called = 0, result, threading.Condition()

    def __call__(self, now: float) -> float:
        with self._called:
            self.count += 1
            self._called.notify_all()
        return now + self._result(self.count)

    def wait_for(self, count: int) -> None:
        with self._called:
            assert self._called.wait_for(lambda: self.count >= count, timeout=10)


@pytest.fixture
def log() -> KeptLog:
    return KeptLog()


def started(steps: Any, log: KeptLog) -> Worker:
    worker = Worker("test", steps, log)
    worker.start()
    return worker


def test_a_step_whose_deadline_is_now_is_called_again_at_once(log: KeptLog) -> None:
    steps = Steps(lambda _: 0.0)
    worker = started(steps, log)
    steps.wait_for(100)
    assert worker.stop(5)


def test_a_waiting_worker_is_woken_and_then_waits_again(log: KeptLog) -> None:
    steps = Steps(lambda _: 3600.0)
    worker = started(steps, log)
    steps.wait_for(1)
    for count in range(2, 6):
        worker.wake()
        steps.wait_for(count)
    assert worker.stop(5)
    assert steps.count == 5


def test_a_call_to_wake_during_a_step_is_not_lost(log: KeptLog) -> None:
    box: list[Worker] = []

    def result(count: int) -> float:
        if count == 1:
            box[0].wake()
        return 3600.0

    steps = Steps(result)
    worker = Worker("test", steps, log)
    box.append(worker)
    worker.start()
    steps.wait_for(2)
    assert worker.stop(5)


def test_no_wait_is_longer_than_a_worker_may_wait(log: KeptLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.01)
    steps = Steps(lambda _: 3600.0)
    worker = started(steps, log)
    steps.wait_for(3)
    assert worker.stop(5)


def test_whatever_a_step_raises_is_logged_and_it_is_called_again(log: KeptLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "FLOOR", 0.0)

    def result(count: int) -> float:
        if count <= 3:
            raise ZeroDivisionError(f"bug {count}")
        return 3600.0

    steps = Steps(result)
    worker = Worker("test", steps, log)
    worker._backoff._base = 0.001
    worker.start()
    steps.wait_for(4)
    assert worker.stop(5)
    assert [line.fields["error"] for line in log.lines] == [f"ZeroDivisionError('bug {n}')" for n in (1, 2, 3)]
    assert all(line.fields["exc_info"] is True for line in log.lines)


def test_the_pause_grows_while_a_step_fails_and_is_forgotten_when_it_works(log: KeptLog) -> None:
    outcomes = iter([True, True, True, False, True])

    def step(now: float) -> float:
        if next(outcomes):
            raise ValueError("bug")
        return now + 1

    worker = Worker("test", step, log)
    worker._backoff._uniform = lambda _, high: high
    before = time.monotonic()
    pauses = [worker.step_once() - before for _ in range(5)]
    assert 0.2 <= pauses[0] < pauses[1] < pauses[2]
    assert pauses[4] < pauses[2]


def test_an_end_of_the_interpreter_is_not_swallowed(log: KeptLog) -> None:
    def step(_: float) -> float:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        Worker("test", step, log).step_once()


def test_a_worker_in_the_calling_thread_leaves_when_asked(log: KeptLog) -> None:
    def step(now: float) -> float:
        worker.leave()
        return now

    worker = Worker("test", step, log)
    worker.run()
    assert worker.stop(0)


def test_a_worker_that_is_to_leave_waits_for_nothing_any_more(log: KeptLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leaves in a step, and whoever was stopped just before its call to wake was cleared."""
    waited: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda _, seconds: waited.append(seconds))

    def step(now: float) -> float:
        worker.leave()
        return now + 3600

    worker = Worker("test", step, log)
    worker.run()
    assert waited == []


def test_a_worker_can_stop_itself_and_one_that_was_never_started_has_stopped(log: KeptLog) -> None:
    assert Worker("never", lambda now: now, log).stop(0)
    done = threading.Event()

    def step(now: float) -> float:
        worker.stop(5)
        done.set()
        return now

    worker = Worker("test", step, log)
    worker.start()
    assert done.wait(5)
    assert worker.stop(5)


def test_a_step_that_hangs_is_reported(log: KeptLog) -> None:
    hang, hanging = threading.Event(), threading.Event()

    def step(now: float) -> float:
        hanging.set()
        hang.wait(10)
        return now

    worker = started(step, log)
    assert hanging.wait(5)
    assert not worker.stop(0.01)
    hang.set()
    assert worker.stop(5)
