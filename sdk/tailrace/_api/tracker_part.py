"""What the parts of a tracker have in common: its core, and the run that a call means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace._api.operations import RunOperations
from tailrace._values.texts import as_name

if TYPE_CHECKING:
    from tailrace._api.run import Run
    from tailrace._api.tracker_core import TrackerCore

__all__ = ["TrackerPart", "tracker_core_of"]


class TrackerPart:
    """What users call, of one kind: a base of `Tracker`, which gives it the core."""

    def __init__(self, core: TrackerCore) -> None:
        self._core = core

    def _to(self, run_id: str | None) -> Run:
        """The run that a call means; the active one, or a new one, when none is named."""
        run: Run = self._core.runs.target(None if run_id is None else as_name(run_id, "run_id")).handle
        return run

    def _handed_in(self, run: Run, synchronous: bool | None) -> RunOperations | None:
        """What a call returns that MLflow can make wait, or not: nothing, or what can be waited on."""
        if synchronous:
            run.flush()
        waits = synchronous or (synchronous is None and not self._core.asynchronous)
        return None if waits else RunOperations(run)


def tracker_core_of(tracker: TrackerPart) -> TrackerCore:
    """The core of a tracker that users hold."""
    return tracker._core
