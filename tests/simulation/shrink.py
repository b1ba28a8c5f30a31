"""From a scenario that fails to one that fails with as few actions as possible (delta debugging: A. Zeller, 1999)."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from simulation.scenario import Action, Scenario

__all__ = ["as_text", "kind_of", "shrink"]


def kind_of(wrong: str | None) -> str | None:
    """What is wrong, without its figures: a smaller scenario has to fail in the same way."""
    return None if wrong is None else re.sub(r"[0-9a-f]{16}|[\d.]+", "#", wrong)[:40]


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool]) -> Scenario:
    """Leaves actions out, half of them first and single ones last, as long as it still fails."""
    actions = list(scenario.actions)
    size = max(1, len(actions) // 2)
    while True:
        at, smaller = 0, False
        while at < len(actions):
            fewer = actions[:at] + actions[at + size :]
            if fails(_with(scenario, fewer)):
                actions, smaller = fewer, True
            else:
                at += size
        if size > 1:
            size //= 2
        elif not smaller:
            return _with(scenario, actions)


def as_text(scenario: Scenario) -> str:
    """It, to be read and to be put into a test."""
    fields = ", ".join(
        f"{name}={value!r}"
        for name, value in msgspec.to_builtins(scenario).items()
        if name not in ("actions", "families") and value != getattr(Scenario(0, (), ()), name)
    )
    actions = "\n".join(f"    {action!r}," for action in scenario.actions)
    return f"Scenario({fields}, families={scenario.families!r}, actions=(\n{actions}\n))"


def _with(scenario: Scenario, actions: list[Action]) -> Scenario:
    return msgspec.structs.replace(scenario, actions=tuple(actions))
