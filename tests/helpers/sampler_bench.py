"""A sampler on a clock that the tests turn, and sources that do as they are bid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helpers.kept_log import KeptLog
from tailrace_agent.sampler.config import MonitorConfig
from tailrace_agent.sampler.sampler import Sample, Sampler


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A source that does what it is told: `answers(now)` may raise, `takes` is turned on the clock."""

    def __init__(
        self,
        name: str = "fake",
        answers: Callable[[float], dict[str, float]] = lambda now: {"value": now},
        *,
        every: float = 0.0,
        takes: Callable[[], float] = lambda: 0.0,
        clock: Clock | None = None,
    ) -> None:
        self.name, self.every = name, every
        self.answers, self.takes, self.clock = answers, takes, clock
        self.asked: list[float] = []
        self.said_tags = {"fake_name": name}
        self.sums: dict[str, float] = {}
        self.closed = 0

    def sample(self, now: float) -> dict[str, float]:
        self.asked.append(now)
        if self.clock is not None:
            self.clock.now += self.takes()
        return self.answers(now)

    def tags(self) -> dict[str, str]:
        return self.said_tags

    def totals(self) -> dict[str, float]:
        return self.sums

    def close(self) -> None:
        self.closed += 1


class Bench:
    """A sampler with its clock, its log and what it has handed on."""

    def __init__(self, *sources: Fake, clock: Clock | None = None, **config: Any) -> None:
        self.clock = clock or Clock()
        self.log = KeptLog()
        self.samples: list[Sample] = []
        self.sampler = Sampler(
            sources,
            MonitorConfig(**config),
            self.samples.append,
            self.log,
            clock=self.clock,
            wall=lambda: round(self.clock.now * 1e9),
        )

    def said_of(self, source: str) -> list[str]:
        return [
            line.event.removeprefix("system monitor: ") for line in self.log.lines if line.fields["source"] == source
        ]

    def run(self, seconds: float) -> None:
        """Steps at each deadline."""
        end = self.clock.now + seconds
        while True:
            deadline = self.sampler.step(self.clock.now)
            if deadline > end:
                self.clock.now = max(self.clock.now, end)
                return
            self.clock.now = max(self.clock.now, deadline)


def raises(error: Exception) -> Callable[[float], dict[str, float]]:
    def answer(now: float) -> dict[str, float]:
        raise error

    return answer
