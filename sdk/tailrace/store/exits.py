"""The end of a program that logs through the plug-in: its active runs end, and their delivery is waited for a while.

MLflow ends the innermost active run of the main thread at the exit, and leaves those around it RUNNING. Here all of
that thread's end; a run that is nobody's active one stays RUNNING, as it does in MLflow.
"""

from __future__ import annotations

import atexit
import time

from tailrace._background.process_end import uncaught
from tailrace.store.active_run import end_active_runs
from tailrace.store.runs import every_store

__all__ = ["attend_exit"]

_attended = False


def attend_exit() -> None:
    """Registers it, once, so that it comes before what tailrace and MLflow do at the exit."""
    global _attended
    if not _attended:
        _attended = True
        atexit.register(_end_all)


def _end_all() -> None:
    status = "FINISHED" if uncaught() is None else "FAILED"
    end_active_runs(status)
    runs = [run for store in every_store() for run in store.all()]
    if not runs:
        return
    deadline = time.monotonic() + max(run.core.settings.exit_timeout for run in runs)

    def left() -> float:
        return max(0.0, deadline - time.monotonic())

    # Runs of others, and those that have been added to since their end; tailrace waits for its own at their ends.
    going_on = [run for run in runs if not run.core.ended and not run.core.ends_at_exit]
    waits = [(run, run.flushing(left())) for run in going_on]
    pending = {run for run, delivered in waits if not delivered()} | {run for run in runs if not run.await_end(left())}
    if pending:
        runs[0].core.voice.warn(
            f"{len(pending)} of {len(runs)} runs are not in MLflow to their end; delivery goes on: `tailrace status`",
            once="left at the exit",
        )
