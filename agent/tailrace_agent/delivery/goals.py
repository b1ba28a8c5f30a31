"""Which of two values of a metric is the better one, and which best values stay with a run that goes on.

Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, Literal

from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc.curves import At
from tailrace_agent.spool.extremes import of_program
from tailrace_agent.text.directions import BEST, BEST_STEP, direction_by_name

__all__ = ["Goal", "better", "goal_of", "kept"]

_OF_BESTS: Final = re.compile(r"(?<![a-z])best(?![a-z])")
"""What is in a name such as `final/best_val_loss`, which is the best of another metric already."""

Goal = Literal["min", "max"]


def goal_of(key: str, defined: Mapping[str, str], *, by_name: bool = True) -> Goal | None:
    """What of a metric is its best value; None where it has none.

    Args:
        key: Its name.
        defined: What its program has said, by pattern: `min`, `max`, or `last` for none. The last that fits counts.
        by_name: Whether its name may say it otherwise.

    Example:
        >>> goal_of("val/loss", {}), goal_of("val/loss", {"val/*": "max"}), goal_of("lr", {})
        ('min', 'max', None)
    """
    if not of_program(key):
        return None
    for pattern in reversed(list(defined)):
        if pattern == key or fnmatchcase(key, pattern):
            goal = defined[pattern]
            return "min" if goal == "min" else "max" if goal == "max" else None
    direction = direction_by_name(key) if by_name and not _OF_BESTS.search(key.lower()) else None
    return None if direction is None else "min" if direction == "minimize" else "max"


def better(goal: Goal, one: At | None, other: At | None) -> At | None:
    """The better of two; of equals the earlier. Infinities are nobody's best."""
    found = [each for each in (one, other) if each is not None and math.isfinite(each.value)]
    sign = 1 if goal == "min" else -1
    return min(found, key=lambda at: (sign * at.value, at.step), default=None)


def kept(state: RunState) -> dict[str, float]:
    """What stands in MLflow in the place of best values that are on their way there: better ones, which the run had.

    A program may have ended before its run was found, and nobody knew of them when its best values were written down.

    Example:
        >>> from tailrace_agent.ipc.records import RunSpec
        >>> from tailrace_agent.sinks.base import RunRef
        >>> ref = RunRef("a", "0", "n", None, bests={"loss": 0.1, "acc": 0.5}, best_steps={"loss": 7, "acc": 7})
        >>> own = {"loss": At(0.2, 9), "acc": At(0.6, 9)}
        >>> kept(RunState(spec=RunSpec(run=1, start_time=1, cwd="/"), ring="", ref=ref, bests=own, bests_ms=5))
        {'loss.best': 0.1, 'loss.best_step': 7}
    """
    if not state.bests_ms or state.ref is None or not state.ref.bests:
        return {}
    found: dict[str, float] = {}
    for key, before in state.ref.bests.items():
        own, goal = state.bests.get(key), goal_of(key, state.goals)
        step = (state.ref.best_steps or {}).get(key)
        if own is None or goal is None or step is None:
            continue
        if better(goal, At(before, int(step)), own) is not own:
            found |= {f"{key}{BEST}": before, f"{key}{BEST_STEP}": step}
    return found
