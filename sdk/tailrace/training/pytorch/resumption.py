"""When a training that was stopped can go on in its run, and how far that is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tailrace.training.pytorch.ranks import job_key
from tailrace.training.pytorch.step_log import EPOCH_KEY, STEP_KEY, TOTAL_KEY
from tailrace.training.runs.tracked_run import Resumed, begun_id
from tailrace_agent.errors import NotFound, TailraceError, Unavailable
from tailrace_agent.ipc.tags import JOB_TAG

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["find_resumed"]

_SETTLES = 60.0
"""Seconds that a run of a process that was killed may take until it has all that was logged to it."""
_POLL = 0.25


def find_resumed(
    tracker: Any, name: str | None, logged: tuple[int, int], warn: Callable[[str], None]
) -> Resumed | None:
    """The run of a training that was stopped, as soon as it has all that was logged to it.

    A run whose process was killed goes on being delivered for a while; when it is over, MLflow has every value.

    Args:
        tracker: Reads it, where it can.
        name: What a checkpoint has kept.
        logged: The last step and epoch that are known to be logged.
        warn: Takes a sentence for the user.

    Returns:
        None where there is no such run (any more), or it cannot be asked for: training goes on in a new one. Without an
        id where it is the run of this very job, which whoever begins a run goes on with.
    """
    if name is None or not hasattr(tracker, "get_run_info") or not hasattr(tracker, "metric_history"):
        return None
    deadline = time.monotonic() + _SETTLES
    waits, begun = False, begun_id(tracker)
    while True:
        late = time.monotonic() >= deadline
        try:
            record = tracker.get_run_info(name)
            why = "still being delivered"
            run_id = _to_begin(record, begun)
            # What the user has entered is running, and so is what goes on with this very job.
            over = record.status != "RUNNING" or record.run_id == begun or not run_id
            if over or late:  # not before: it takes the whole history
                step, epoch = (_last_step(tracker, record, key) for key in (STEP_KEY, EPOCH_KEY))
                whole = over and step >= logged[0] and epoch >= logged[1]
                if late and not whole:
                    warn(f"run {name} was not over after {_SETTLES:.0f} s; what it lacks comes later, or never")
                if late or whole:
                    total = int(record.metrics.get(TOTAL_KEY, -1))
                    return Resumed(run_id, max(step, logged[0]), max(epoch, logged[1]), total)
        except (Unavailable, NotFound) as error:  # one that has just been killed may not be in MLflow yet
            why = f"not there yet ({error})" if isinstance(error, NotFound) else f"out of reach ({error})"
            if late:
                warn(f"the run of the checkpoint cannot be gone on with, so this is a new one: {error}")
                return None
        except (TailraceError, OSError) as error:
            warn(f"the run of the checkpoint cannot be gone on with, so this is a new one: {error}")
            return None
        if not waits:
            warn(f"run {name} is {why}; training goes on when it is whole, or in {_SETTLES:.0f} s")
            waits = True
        time.sleep(_POLL)


def _to_begin(record: Any, begun: str | None) -> str:
    """The id by which a run is gone on with; none for that of this very job, unless the user has entered it."""
    own = record.run_id != begun and getattr(record, "tags", {}).get(JOB_TAG, "") == job_key()
    return "" if own else str(record.run_id)


def _last_step(tracker: Any, record: Any, key: str) -> int:
    if key not in record.metrics:
        return -1 if key == STEP_KEY else 0
    return int(tracker.metric_history(record.run_id, key)["step"].max())
