"""Traces name the run that is active, also where tailrace has begun it.

A trace takes the run that began last of those that MLflow knows to be active in any thread, and goes to that run's
experiment. It looks when the trace begins, so that a run which MLflow has not created by then is waited for: once, and
only as long as MLflow answers.

Importing this module imports MLflow.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlflow.tracking import fluent

from tailrace._messages.waiting import until

if TYPE_CHECKING:
    from tailrace._runs.core import RunCore
    from tailrace._runs.current import CurrentRuns
    from tailrace_agent.ipc.status import RunStatus

__all__ = ["have_traces_name_the_run", "with_active_run"]

_PATIENCE: Final = 30.0
"""Seconds in which MLflow has to create a run that a trace is to name, as long as it answers."""
_unknown: set[str] = set()
"""Runs that MLflow did not create in that time."""


class _Info(NamedTuple):
    run_id: str
    experiment_id: str
    start_time: int


class _Active(NamedTuple):
    """What a trace reads of a run."""

    info: _Info


def have_traces_name_the_run(runs: CurrentRuns) -> None:
    """Has MLflow find the run that is active here, when a trace begins.

    Args:
        runs: The tracker's.
    """
    stacks = fluent._active_run_stack
    before = stacks.get_all_thread_values
    if stacks.__class__ is not fluent.ThreadLocalVariable or hasattr(before, "tailrace_before"):
        return  # the store plug-in's find it themselves

    @functools.wraps(before)
    def get_all_thread_values() -> dict[Any, Any]:
        return with_active_run(before(), runs)

    get_all_thread_values.tailrace_before = before  # type: ignore[attr-defined]
    stacks.get_all_thread_values = get_all_thread_values


def with_active_run(values: dict[Any, Any], runs: CurrentRuns) -> dict[Any, Any]:
    """The active runs of all threads, with the one that is active in tailrace.

    Args:
        values: Lists of runs by thread, as MLflow has them.
        runs: The tracker's.
    """
    run = runs.current()
    if run is None or run.connection is None:
        return values
    known = {each.info.run_id for stack in values.values() for each in stack}
    if (run.spec.run_id or run.run_id_now) in known:
        return values
    info = _info_of(run)
    return values if info is None else {**values, info.run_id: [_Active(info)]}


def _info_of(run: RunCore) -> _Info | None:
    """What MLflow knows it by; None if MLflow has not created it."""
    patience = 0.0 if run.id in _unknown else _PATIENCE

    def decided(status: RunStatus) -> bool:
        return bool(status.run_id or status.refused or status.gone or status.problem)

    status = until(run.status, decided, timeout=patience, quiet=True)
    if status is None or not status.run_id or not status.experiment_id:
        _unknown.add(run.id)
        return None
    return _Info(status.run_id, status.experiment_id, run.spec.start_time)
