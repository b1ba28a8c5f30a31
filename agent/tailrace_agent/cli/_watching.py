"""Waiting for somebody else's agent, which holds a session and delivers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tailrace_agent.cli._app import Code
from tailrace_agent.cli._deliver import Patience, Result, Tick
from tailrace_agent.cli._look import look

if TYPE_CHECKING:
    from tailrace_agent.cli._views import SessionView
    from tailrace_agent.ipc.session import Session

__all__ = ["wait_for_agent"]

_TICK: Final = 0.2  # seconds; each look reads the status files


def wait_for_agent(
    session: Session, tick: Callable[[Tick], None], patience: Patience, *, wait: bool = False
) -> Result | None:
    """Waits until the session's agent has settled everything that was accepted when the waiting began.

    With `wait`, where its programs have ended, until it has finished: the runs' ends and their metadata count too.

    Returns:
        What became of it; None when the agent and its programs are gone with something left, which is ours to deliver.
    """
    began = moved = time.monotonic()
    view = look(session)
    before, goal = _settled(view), sum(run.accepted for run in view.runs)
    delivered, dropped = _counted(view)

    def result(outcome: str, reasons: list[str]) -> Result:
        now = _counted(view)
        return _result(view, now[0] - delivered, now[1] - dropped, outcome, reasons)

    last = before
    while True:
        now, settled = time.monotonic(), _settled(view)
        moved, last = (now, settled) if settled != last else (moved, last)
        problem = next((run.problem for run in view.runs if run.problem), view.problem)
        tick(Tick(settled - before, max(settled, goal) - before, problem))
        if view.state == "leftover":
            return None
        # Without runs nothing is known yet: the agent has published none.
        goes_on = view.state == "live" and bool(view.runs) and (view.trainer_alive or not wait)
        if view.state == "finished" or (goes_on and settled >= goal):
            return result("delivered", [])
        given_up = patience.timeout is not None and now - began > patience.timeout
        if given_up or now - moved > patience.without_progress:
            reason = problem or "its agent has not delivered it in time; it goes on"
            return result("unreachable" if problem else "left", [reason])
        time.sleep(_TICK)
        view = look(session)
        # An agent that is just beginning has published no run at the call.
        goal = goal or sum(run.accepted for run in view.runs)


def _settled(view: SessionView) -> int:
    return sum(run.accepted - run.pending for run in view.runs)


def _counted(view: SessionView) -> tuple[int, int]:
    """What is delivered, and what was dropped."""
    return sum(run.delivered for run in view.runs), sum(sum(run.dropped.values()) for run in view.runs)


def _result(view: SessionView, delivered: int, dropped: int, outcome: str, reasons: list[str]) -> Result:
    code = {"delivered": Code.FINE, "left": Code.WRONG, "unreachable": Code.STORE}[outcome]
    return Result(
        session=view.id,
        outcome=outcome,  # type: ignore[arg-type]
        delivered=delivered,
        pending=view.pending,
        dead=view.dead,
        dropped=dropped,
        reasons=reasons,
        code=code,
    )
