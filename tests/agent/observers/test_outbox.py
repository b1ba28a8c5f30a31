"""What waits for one address: sent in order, bounded in number and time, and never twice at once."""

from __future__ import annotations

import threading

import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.observers.outbox import Outbox


class Sent(Outbox[str]):
    """Sends nowhere; its answers are set by the test."""

    def __init__(self) -> None:
        self.log, self.now, self.told = KeptLog(), 0.0, list[str]()
        self.sent: list[str] = []
        self.answers: list[tuple[str | None, bool]] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        super().__init__("there", self.log, self.told.append, lambda: self.now)

    def _post(self, payload: str, timeout: float) -> tuple[str | None, bool]:
        self.goes_on.wait(10)
        answer = self.answers.pop(0) if self.answers else (None, False)
        if answer[0] is None:
            self.sent.append(payload)
        return answer

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now <= end and self.pending:
            self.now = max(self.now, self.step(self.now)) + 0.001


@pytest.fixture
def outbox() -> Sent:
    found = Sent()
    for name in ("a", "b", "c"):
        found.put(name, lambda name=name: name)  # type: ignore[misc]
    return found


def test_what_may_pass_is_tried_again_and_keeps_its_place(outbox: Sent) -> None:
    outbox.answers = [("away", True)] * 3
    outbox.run(100)
    assert outbox.sent == ["a", "b", "c"]
    assert outbox.told == []


def test_a_refusal_costs_that_one_alone(outbox: Sent) -> None:
    outbox.answers = [("no", False)]
    outbox.run(100)
    assert outbox.sent == ["b", "c"]
    assert outbox.told == ["the alert 'a' could not be posted to there: no"]


def test_what_has_waited_for_two_minutes_is_given_up(outbox: Sent) -> None:
    outbox.answers = [("away", True)] * 1000
    outbox.run(200)
    assert not outbox.pending
    assert len(outbox.told) == 3


def test_the_end_tries_each_once_and_stops_at_what_may_pass(outbox: Sent) -> None:
    outbox.answers = [("no", False), ("away", True)]
    outbox.finish(1.0)
    assert (outbox.sent, outbox.pending) == ([], True)
    outbox.finish(1.0)
    assert outbox.sent == ["b", "c"]


def test_the_end_does_not_wait_for_what_is_under_way_beyond_its_time(outbox: Sent) -> None:
    outbox.goes_on.clear()
    under_way = threading.Thread(target=outbox.step, args=(0.0,))
    under_way.start()
    while outbox._posted is None:
        pass
    ended = threading.Thread(target=lambda: (outbox.finish(0.05), outbox.goes_on.set()))
    ended.start()
    while ended.is_alive():
        outbox.now += 0.01
        ended.join(0.01)
    under_way.join()
    assert outbox.sent == ["a"]
