"""The end of the program: the runs of all its trackers end, within one time.

All trackers share the lanes of the background, and one deadline. So each step is done for all of them before the next:
a tracker that has begun nothing, as the module's own often has not, would give up what another one's lanes still hold.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tailrace._background.lane import abandon, drain
from tailrace._background.process_end import uncaught
from tailrace._runs.ending import wait_was_ended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace._runs.current import CurrentRuns

__all__ = ["end_all"]

_LEAST_TO_CLOSE: Final = 1.0
"""Seconds that a thread-hosted agent has in any case, to put what it holds into the spool."""


def end_all(trackers: Sequence[CurrentRuns]) -> None:
    """The process ends: so do the runs that it has begun, within `exit_timeout` in all, the longest of theirs.

    Args:
        trackers: The runs of each of them.

    Thread safety: once at a time; other threads may go on logging meanwhile.
    """
    error = uncaught()
    deadline = time.monotonic() + max((runs.exit_timeout for runs in trackers), default=0.0)

    def left() -> float:
        return 0.0 if wait_was_ended() else max(0.0, deadline - time.monotonic())

    # Before the waits below: meanwhile other threads go on logging.
    for runs in trackers:
        runs.begin_no_more()
    for runs in trackers:
        runs.leave_joined(left)
    # Once for all runs: what lanes still hold may belong to any of them.
    drain(left())
    for runs in trackers:
        runs.end_begun(error, left)
    # What is given up now is counted as dropped.
    abandon("the program has ended before that")
    for runs in trackers:
        runs.close(lambda: max(_LEAST_TO_CLOSE, left()))
