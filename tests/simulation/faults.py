"""Injection points: where a scenario may make something fail, kill the agent, or let others run in between.

A point is reached under a name (`request`, `commit`, …). A fault that was armed for it strikes at the n-th time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

__all__ = ["Killed", "Points"]


class Killed(BaseException):
    """The agent's process is gone, in the middle of whatever it did."""


class Points:
    """Every point of one simulation.

    Attributes:
        reached: How often each was.
        struck: How often a fault struck at each, by name and kind.
        on_kill: Called when a fault kills the agent.
        meanwhile: Runs actions of others.
    """

    def __init__(self) -> None:
        self._armed: dict[str, list[list[Any]]] = {}
        self.reached: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.on_kill: Callable[[str], None] = lambda _: None
        self.meanwhile: Callable[[list[Any]], None] = lambda _: None

    def arm(self, point: str, nth: int, fault: str, *details: Any) -> None:
        self._armed.setdefault(point, []).append([nth, fault, details])

    def disarm(self) -> None:
        self._armed.clear()

    def reach(self, point: str) -> tuple[str, tuple[Any, ...]] | None:
        """The fault that strikes now, for whoever has reached the point to play; kills and pauses are played here."""
        self.reached[point] += 1
        strikes = None
        for armed in self._armed.get(point, ()):
            armed[0] -= 1
            if armed[0] < 0 and strikes is None:
                strikes = armed
        if strikes is None:
            return None
        self._armed[point].remove(strikes)
        _, fault, details = strikes
        self.struck[f"{point}: {fault}"] += 1
        if fault == "kill":
            self.kill(point)
        if fault == "meanwhile":
            self.meanwhile(list(details))
            return None
        return fault, details

    def kill(self, point: str) -> None:
        self.on_kill(point)
        raise Killed(point)
