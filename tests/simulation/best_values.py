"""What must hold of the best values of a run: they are the extremes of what was logged, and there once with its end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from simulation.journal import Row
from tailrace_agent.ipc.records import Point, run_hex
from tailrace_agent.sinks.memory import MemoryRun
from tailrace_agent.text.directions import BEST, BEST_STEP

if TYPE_CHECKING:
    from simulation.world import World

__all__ = ["fault_of_bests", "is_best"]


class _Value(NamedTuple):
    """A value that was logged, by how good it is: the smallest of these is the best."""

    worse: float
    step: int


def is_best(key: str) -> bool:
    """Whether nobody has logged a metric of this name, and a run gets it with its end."""
    return key.endswith((BEST, BEST_STEP))


def fault_of_bests(world: World, run: int, stored: MemoryRun, before: int, *, dropped: int) -> str | None:
    """What is wrong with the best values that a run has in MLflow; None where nothing is.

    Args:
        world: All of it.
        run: tailrace's id of the run.
        stored: As MLflow has it.
        before: What was logged before this call must have been considered, and what came later may.
        dropped: How many values were given up at the spool's bound, of which best values may be some.
    """
    bests = {key: points for key, points in stored.metrics.items() if is_best(key)}
    if not world.scenario.bests:
        return f"{run_hex(run)} has {sorted(bests)}, and nobody wants them" if bests else None
    journal = world.journal
    said = journal.of(run, "goals")
    over = min((row.order for row in journal.of(run, "end")), default=min(journal.deaths.values(), default=before))
    if any(row.order > over for row in said):  # the run was over: what came before that is not known any more
        return None
    known = {"loss"} | {"lr" for row in said if row.order < before and journal.kept(row)}
    allowed = {"loss": 1.0} | ({"lr": -1.0} if said else {})
    if more := {key.removesuffix(BEST_STEP).removesuffix(BEST) for key in bests} - allowed.keys():
        return f"{run_hex(run)} has best values of {sorted(more)}"
    rows = journal.of(run, "metric")
    # With each end, and with what is read after the first.
    late = journal.read_late(run, over, "metric")
    most = len(journal.of(run, "end")) + len(journal.deaths) + len(late) + len(said) + 1
    for key, sign in allowed.items():
        must = _values(key, sign, [row for row in rows if row.order < before and journal.kept(row)])
        may = _values(key, sign, [row for row in rows if row.index is not None or row.lost is None])
        values, steps = bests.get(f"{key}{BEST}", []), bests.get(f"{key}{BEST_STEP}", [])
        if len(values) > most:
            return f"{run_hex(run)} has the best value of {key} {len(values)} times"
        if dropped:
            continue
        if not values:
            if key in known and must:
                return f"{run_hex(run)} has no best value of {key}"
            continue
        found = _Value(sign * _last(values), int(_last(steps)) if steps else -1)
        if fault := _fault_of(found, must, may):
            return f"{run_hex(run)}: of {key} {fault}"
    return None


def _fault_of(found: _Value, must: set[_Value], may: set[_Value]) -> str | None:
    if must and min(must) < found:
        return f"the best is {min(must)}, and not {found}"
    return None if found in may else f"nobody has logged {found}"


def _values(key: str, sign: float, rows: list[Row]) -> set[_Value]:
    marks = (mark for row in rows for mark in row.marks if mark[0] == key and mark[3] is not None)
    return {_Value(sign * value, step) for _, _, step, value in marks if math.isfinite(value)}


def _last(points: list[Point]) -> float:
    return max(points, key=lambda point: (point.step, point.timestamp)).value
