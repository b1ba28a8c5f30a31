"""Time and chance inside of a simulation: both are the scheduler's."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

from tailrace_agent.ipc import session

__all__ = ["Clock", "governed"]

_PID = 4711


class Clock:
    """The monotonic clock, and a wall clock that may be set at any time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._ahead = 1.7e9

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + self._ahead

    def time_ns(self) -> int:
        return int(self.time() * 1e6) * 1000

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._ahead += seconds

    def reboot(self) -> None:
        """The monotonic clock begins anew, the wall clock goes on."""
        self._ahead += self.now - 10.0
        self.now = 10.0


class _Time(ModuleType):
    """What the code takes for the module `time`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("time")
        self.time, self.time_ns, self.monotonic = clock.time, clock.time_ns, clock.monotonic

    def strftime(self, pattern: str) -> str:
        return time.strftime(pattern, time.gmtime(self.time()))

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextlib.contextmanager
def governed(clock: Clock, rng: random.Random) -> Iterator[None]:
    """All of tailrace lives by this clock, and draws from this generator."""
    ours = _Time(clock)
    with contextlib.ExitStack() as stack:
        for module, name, foreign in _clocks():
            there = ours if foreign is time else getattr(ours, foreign.__name__)
            stack.enter_context(mock.patch.object(module, name, there))
        stack.enter_context(mock.patch.object(os, "urandom", rng.randbytes))
        stack.enter_context(mock.patch.object(os, "getpid", return_value=_PID))  # rings and messages have it
        stack.enter_context(mock.patch.object(session, "_ring_numbers", itertools.count()))
        state = random.getstate()
        random.seed(rng.random())  # the jitter of pauses
        try:
            yield
        finally:
            random.setstate(state)


_found: dict[int, list[tuple[ModuleType, str, Any]]] = {}


def _clocks() -> list[tuple[ModuleType, str, Any]]:
    """Where tailrace's modules have the module `time`, or a clock of it, under a name of their own."""
    if len(sys.modules) not in _found:
        clocks = (time, time.time, time.time_ns, time.monotonic)
        _found[len(sys.modules)] = [
            (module, name, value)
            for path, module in list(sys.modules.items())
            if path.partition(".")[0] in ("tailrace", "tailrace_agent")
            for name, value in vars(module).items()
            if any(value is each for each in clocks)
        ]
    return _found[len(sys.modules)]
