"""`Run.observe`: who is called with what a run logs, and what becomes of what they raise."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from helpers.sdk_tools import Store, tracking
from tailrace import CallError, Run, Tracker
from tailrace._runs.run_part import core_of


class Stop(Exception):
    """What a callback raises."""


class Seen(list[tuple[int, dict[str, float]]]):
    """A callback that keeps what it is called with, and raises above a bound."""

    def __init__(self, most: float = float("inf")) -> None:
        self._most = most

    def __call__(self, step: int, values: dict[str, float]) -> None:
        self.append((step, values))
        if max(values.values()) > self._most:
            raise Stop


@pytest.fixture
def tracker(sqlite_uri: str) -> Iterator[Tracker]:
    with tracking(sqlite_uri) as tracker:
        yield tracker


def test_every_way_of_logging_is_observed_once_and_is_logged_all_the_same(tracker: Tracker, sqlite_uri: str) -> None:
    seen = Seen()
    with tracker.start_run() as run:
        run.observe(["loss", "val/loss"], seen)
        tracker.log(step=1, loss=1.0, other=0.0)
        run.log({"loss": 2}, 2)
        tracker.log({"val": {"loss": 3.0}}, 3)
        run.log(step=4, loss=np.float32(0.5))
        run.log(step=np.int64(5), loss=True)
        run.log(step=6, loss=6.0, note="no number")
        run.log_metrics({"loss": 7.0}, 7)
        run.log_metric("loss", 8.0, step=8, timestamp=1_000)
        tracker.log(step=9, other=9.0)
        tracker.log(loss=10.0)
    assert seen == [
        (1, {"loss": 1.0}),
        (2, {"loss": 2.0}),
        (3, {"val/loss": 3.0}),
        (4, {"loss": 0.5}),
        (5, {"loss": 1.0}),
        (6, {"loss": 6.0}),
        (7, {"loss": 7.0}),
        (8, {"loss": 8.0}),
        (0, {"loss": 10.0}),
    ]
    logged = Store(sqlite_uri, run).metrics()
    assert sorted(logged["loss"]) == [(0, 10.0), (1, 1.0), (2, 2.0), (4, 0.5), (5, 1.0), (6, 6.0), (7, 7.0), (8, 8.0)]
    assert logged["val/loss"] == [(3, 3.0)]
    assert logged["other"] == [(1, 0.0), (9, 9.0)]


@pytest.mark.parametrize("values", [{"loss": 9.0}, {"loss": 9.0, "note": "no number"}, {"loss": np.array([9.0])}])
def test_what_a_callback_raises_comes_out_of_log_after_the_values_are_logged(
    tracker: Tracker, sqlite_uri: str, values: dict[str, Any]
) -> None:
    with tracker.start_run() as run:
        run.observe("loss", Seen(most=5.0))
        tracker.log({"loss": 1.0}, 0)
        with pytest.raises(Stop):
            tracker.log(values, 1)
        with pytest.raises(Stop):
            run.log(values, 2)
    assert Store(sqlite_uri, run).history("loss") == [(0, 1.0), (1, 9.0), (2, 9.0)]


def test_what_every_leaves_out_is_observed_all_the_same(tracker: Tracker, sqlite_uri: str) -> None:
    seen = Seen(most=6.0)
    with tracker.start_run(every={"loss": 3}) as run:
        run.observe("loss", seen)
        for step in range(7):
            tracker.log(step=step, loss=float(step))
        with pytest.raises(Stop):
            tracker.log(step=7, loss=7.0)
    assert [step for step, _ in seen] == list(range(8))
    assert Store(sqlite_uri, run).history("loss") == [(0, 0.0), (3, 3.0), (6, 6.0), (7, 7.0)]


def test_a_run_that_is_not_delivered_is_observed_and_keeps_its_last_values(tracker: Tracker) -> None:
    seen = Seen(most=1.0)
    run = tracker.start_run(agent="off")
    run.observe("loss", seen)
    run.log(step=0, loss=0.5)
    tracker.log(step=1, loss=0.25, other=3.0)
    with pytest.raises(Stop):
        tracker.log(step=2, loss=2.0)
    assert [step for step, _ in seen] == [0, 1, 2]
    latest = core_of(run).latest
    assert latest is not None
    assert latest.numbers() == {"loss": 2.0, "other": 3.0}
    run.end()


class Lost:
    """An array on a device that is lost."""

    shape = ()

    def item(self) -> float:
        raise RuntimeError("device lost")


Lost.__module__ = "cupy"


def test_a_value_of_a_lost_device_is_not_observed_and_raises_nothing(tracker: Tracker) -> None:
    with tracker.start_run() as run:
        seen = Seen()
        run.observe(["loss", "host"], seen)
        run.log(step=0, loss=Lost(), host=1.0)
    assert seen == [(0, {"host": 1.0})]


def test_several_may_observe_and_each_gets_its_own_names(tracker: Tracker) -> None:
    first, second = Seen(), Seen()
    with tracker.start_run() as run:
        run.observe("a", first)
        run.observe(["a", "b"], second)
        run.log(step=0, a=1.0, b=2.0)
        run.log(step=1, b=3.0)
    assert first == [(0, {"a": 1.0})]
    assert second == [(0, {"a": 1.0, "b": 2.0}), (1, {"b": 3.0})]


def test_after_its_end_nobody_is_called(tracker: Tracker) -> None:
    seen = Seen()
    run = tracker.start_run()
    run.observe("loss", seen)
    run.end()
    run.log(step=0, loss=1.0)
    with tracker.start_run():
        tracker.log(step=0, loss=1.0)
    assert seen == []


def test_each_thread_has_the_observers_of_its_own_run(tracker: Tracker) -> None:
    seen: dict[int, Seen] = {number: Seen() for number in range(4)}

    def train(number: int) -> None:
        with tracker.start_run(run_name=str(number)) as run:
            run.observe("loss", seen[number])
            for step in range(50):
                tracker.log(step=step, loss=float(number))

    threads = [threading.Thread(target=train, args=(number,)) for number in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, calls in seen.items():
        assert calls == [(step, {"loss": float(number)}) for step in range(50)]


def test_a_forked_child_logs_and_calls_nobody(tracker: Tracker, sqlite_uri: str) -> None:
    with tracker.start_run() as run:
        run.observe("loss", Seen(most=0.0))
        child = os.fork()
        if child == 0:  # pragma: no cover
            code = 1
            try:
                tracker.log(step=0, loss=1.0)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    assert Store(sqlite_uri, run).history("loss") == [(0, 1.0)]


def test_a_run_that_is_over_cannot_be_observed(tracker: Tracker) -> None:
    run: Run = tracker.start_run(strict=True)
    run.end()
    with pytest.raises(CallError, match="not running in this process"):
        run.observe("loss", Seen())
