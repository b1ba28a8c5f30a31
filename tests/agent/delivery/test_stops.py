"""Requests to stop: one look for all runs of a store, now and then, and nobody's problem where it fails."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from helpers.delivery_rigs import DeliveryRig
from tailrace_agent.delivery.stops import Stops
from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import End


class StopRig(DeliveryRig):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stops = Stops(None, self.book, 10.0, self.log)
        self.looks: list[float] = []
        self.error: Exception | None = None
        self.sink.fail = self._seen

    def _seen(self, method: str) -> None:
        if method == "running_with_tag":
            self.looks.append(self.now)
            if self.error is not None:
                raise self.error

    def look(self) -> float:
        return self.stops.step(self.sink, self.now) - self.now


@pytest.fixture
def rig(tmp_path: Path) -> StopRig:
    rig = StopRig(tmp_path)
    for run in (1, 2):
        rig.start(run)
    rig.run(1)
    return rig


def test_the_runs_that_were_asked_know_it_and_are_not_looked_for_again(rig: StopRig) -> None:
    assert rig.look() == 10.0
    assert rig.looks == [], "nobody has seen the run yet"
    rig.of(1).tags["tailrace.stop"] = "ada: \x1b[31menough"
    rig.now += 5
    assert rig.look() == 5.0
    rig.now += 5
    assert rig.look() == 10.0
    assert len(rig.looks) == 1
    assert (rig.state(1).stop, rig.state(2).stop) == ("ada: \\x1b[31menough", None)
    assert rig.notices(1) == ["this run is asked to stop: ada: \\x1b[31menough; should_stop() is True from now on"]
    rig.of(2).tags["tailrace.stop"] = ""
    rig.now += 10
    rig.look()
    assert rig.state(2).stop == ""
    assert rig.look() == math.inf, "there is no run left to ask for"


def test_what_was_asked_goes_with_the_end(rig: StopRig) -> None:
    rig.of(1).tags["tailrace.stop"] = "ada"
    for _ in range(2):
        rig.look()
        rig.now += 10
    rig.say(End(1, "FINISHED", 77), End(2, "FINISHED", 77))
    rig.run()
    assert rig.of(1).tags["tailrace.stopped_by"] == "ada"
    assert "tailrace.stopped_by" not in rig.of(2).tags
    assert rig.look() == math.inf


@pytest.mark.parametrize("error", [Unavailable("away"), Refused("no searches here")])
def test_a_store_that_does_not_answer_is_asked_more_rarely_and_again(rig: StopRig, error: Exception) -> None:
    rig.look()
    rig.now += 10
    rig.error = error
    assert rig.look() == 60.0
    rig.error = None
    rig.of(1).tags["tailrace.stop"] = "ada"
    rig.now += 60
    rig.look()
    assert rig.state(1).stop == "ada"
    assert rig.notices(2) == []


def test_nobody_is_asked_without_a_store_or_where_it_is_switched_off(rig: StopRig) -> None:
    assert rig.stops.step(None, rig.now) == math.inf
    assert Stops(None, rig.book, 0.0, rig.log).step(rig.sink, rig.now) == math.inf


def test_a_new_agent_knows_what_was_asked(rig: StopRig) -> None:
    rig.of(1).tags["tailrace.stop"] = "ada"
    rig.look()
    rig.now += 10
    rig.look()
    rig.restart()
    assert rig.state(1).stop == "ada"
