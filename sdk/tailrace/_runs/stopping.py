"""Requests to stop, as the program sees them: somebody has set the tag `tailrace.stop` of a run in MLflow.

To ask costs what an empty function costs, as long as nobody has asked any run of the tracker to stop. The agent, which
finds the request, rings; nothing is polled here.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tailrace_agent.ipc.tags import STOP_NOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace._runs.core import RunCore

__all__ = ["Stopping", "asked_to_stop"]


def asked_to_stop(run: RunCore) -> bool:
    """Whether somebody has asked this run to stop, or one that it is nested in."""
    above: RunCore | None = run
    while above is not None:
        if above.seen is not None and above.seen.stop is not None:
            return True
        above = above.parent
    return False


class Stopping:
    """The requests to the runs of one tracker.

    Args:
        current: Finds the run that a call means.

    Attributes:
        should_stop: Whether that run was asked to stop. A function without a `self`, for what a method costs.

    Thread safety: every method from any thread.
    """

    def __init__(self, current: Callable[[], RunCore | None]) -> None:
        self._asked: list[int] = []
        asked = self._asked  # a cell of its own: an attribute less to look up

        def should_stop() -> bool:
            if not asked:
                return False
            run = current()
            return run is not None and asked_to_stop(run)

        self.should_stop = should_stop

    def look(self, run: RunCore) -> None:
        """The agent has something new on a run: reads it, and passes a request on that is new."""
        status = run.status()
        if status is None or status.stop is None or run.spec.run in self._asked:
            return
        self._asked.append(run.spec.run)
        if run.ours and (run.settings.on_stop == "signal" or status.stop.startswith(STOP_NOW)):
            os.kill(os.getpid(), signal.SIGTERM)
