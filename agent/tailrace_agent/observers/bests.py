"""The best value of a metric, and its step: written with the run's end, so that MLflow's UI can sort runs by them.

MLflow keeps each metric's last value with a run. That of a loss says how training ended, and not how well it went.

What this module promises:

* `loss.best` is the smallest (or largest) number of all that the run was given under the name, and `loss.best_step` the
  first step that had it: also of a run that was killed, and over agents that were killed, since `RunState.bests` is
  written in the transaction of the rows from which it comes.
* What is better, its program has said (`define_metric`), or the name says it (`text.directions`). Of any other metric,
  and of those of the machine, there is none.
* A run that goes on where an earlier attempt has left off keeps that attempt's best while it is the better. One that
  ends before it was found in MLflow gives its own, and `goals.kept` says what becomes of them.

Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

from tailrace_agent.delivery.goals import Goal, better, goal_of
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc.curves import At, Curve
from tailrace_agent.ipc.records import End, encode
from tailrace_agent.ipc.status import MetricEnd, MetricEnds
from tailrace_agent.spool.extremes import of_program
from tailrace_agent.text.directions import BEST, BEST_STEP
from tailrace_agent.text.sparkline import thinned

__all__ = ["closing_row", "ends_of", "with_more"]

_MOST: Final = 200
"""Metrics of one run of which there is a best one. They are in its state, which is written as a whole."""
_NS: Final = 1_000_000

_SHOWN: Final = 12
_LINE: Final = 24
"""Metrics that a person is shown when a run ends, and the values of each."""


def with_more(state: RunState, curves: Mapping[str, Curve], *, by_name: bool) -> dict[str, At] | None:
    """A run's bests with what its curves say, where that changes any; else None."""
    found = dict(state.bests)
    for key, curve in curves.items():
        goal = _goal(state, key, by_name)
        if goal is None or (key not in found and len(found) >= _MOST):
            continue
        best = better(goal, found.get(key), curve.low if goal == "min" else curve.high)
        if best is not None:
            found[key] = best
    return found if found != state.bests else None


def closing_row(state: RunState, end: End, bests: Mapping[str, At], *, by_name: bool) -> bytes | None:
    """The metrics that a run gets with its end, as a row for the intake; None where there are none.

    Args:
        state: The run. Where it goes on in MLflow, `ref` has the bests of before.
        end: How it ends.
        bests: Its own by now.
        by_name: As `goal_of` has it.
    """
    if end.status == "RUNNING" or not state.spec.owned:
        return None
    before = state.ref.bests if state.ref is not None else None
    if before is None:
        if state.spec.run_id:  # what it had before is not known, and may be better
            return None
        before = {}
    values: dict[str, float] = {}
    for key, best in bests.items():
        goal = _goal(state, key, by_name)
        if goal is None:  # its program has said so since
            continue
        known = At(before[key], best.step) if key in before else None
        if better(goal, known, best) is best or known is None:
            values |= {f"{key}{BEST}": best.value, f"{key}{BEST_STEP}": best.step}
    return encode((state.run, 0, end.time_ms * _NS, values)) if values else None


def ends_of(curves: Mapping[str, Curve], bests: Mapping[str, At], left_out: Collection[str] = ()) -> MetricEnds:
    """How a run's metrics ended, for people: the program's own, those with a best value first."""
    own = {key: curve for key, curve in curves.items() if of_program(key)}
    shown = sorted(own, key=lambda key: key not in bests)[:_SHOWN]
    ends = []
    for key in shown:
        curve, best = own[key], bests.get(key)
        line = thinned([span.last for span in curve.line], _LINE)
        last = curve.last[2] if curve.last is not None else math.nan
        ends.append(MetricEnd(key, last, line, *(best if best is not None else ())))
    return MetricEnds(ends, len(own) - len(shown) + sum(map(of_program, left_out)))


def _goal(state: RunState, key: str, by_name: bool) -> Goal | None:
    # A run that its program has made with MLflow's own calls has what these give it, and no more.
    return goal_of(key, state.goals, by_name=by_name and not state.spec.created)
