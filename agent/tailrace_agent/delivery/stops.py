"""Requests to stop: whoever sets the tag `tailrace.stop` of a run in MLflow asks its program to end it.

One request for all runs of a store, now and then, which brings only the runs that have the tag. What it stumbles over
is nobody's problem: the next one asks again.
"""

from __future__ import annotations

import math
import threading
from typing import Final

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.errors import Refused, RunGone, Unavailable
from tailrace_agent.ipc.notices import Notice
from tailrace_agent.ipc.tags import STOP_TAG
from tailrace_agent.log import Log
from tailrace_agent.sinks.base import Sink
from tailrace_agent.text.quoting import plain

__all__ = ["Stops"]

_LONGEST: Final = 200  # characters of what was asked
_SLOWER: Final = 6.0
"""How many times as long after a request that came to nothing."""


class Stops:
    """Looks for them, for the runs that go to one tracking URI.

    Args:
        tracking_uri: Without a password; None for MLflow's default.
        book: The runs.
        interval: Seconds between two looks; 0 for none.
        log: Where operators read.

    Thread safety: every method from any thread.
    """

    def __init__(self, tracking_uri: str | None, book: RunBook, interval: float, log: Log) -> None:
        self._tracking_uri, self._book, self._interval, self._log = tracking_uri, book, interval, log
        self._next = -math.inf
        self._lock = threading.Lock()

    def step(self, sink: Sink | None, now: float) -> float:
        """Looks, if it is time; when to be called again (monotonic seconds)."""
        going = [state for state in self._book.unfinished(self._tracking_uri) if _may_stop(state)]
        if sink is None or not going or not self._interval:
            return math.inf
        with self._lock:
            if now < self._next:
                return self._next
            first, self._next = self._next == -math.inf, now + self._interval
        if first:  # the first runs have begun just now: nobody has seen them yet
            return self._next
        experiments = sorted({state.ref.experiment_id for state in going if state.ref is not None})
        try:
            asked = sink.running_with_tag(experiments, STOP_TAG)
        except (Unavailable, Refused, RunGone) as error:  # delivery says so where it concerns anybody
            self._next = now + self._interval * _SLOWER
            self._log.info("not asked whether to stop", uri=self._tracking_uri, reason=str(error))
            return self._next
        for state in going:
            if state.ref is not None and state.ref.run_id in asked:
                self._note(state, plain(asked[state.ref.run_id], _LONGEST))
        return self._next

    def _note(self, state: RunState, text: str) -> None:
        self._book.update(state.run, stop=text)
        self._log.info("asked to stop", run_id=state.ref.run_id if state.ref is not None else None, by=text)
        by = f": {text}" if text else ""
        self._book.notice(state.run, Notice(f"this run is asked to stop{by}; should_stop() is True from now on"))


def _may_stop(state: RunState) -> bool:
    return state.ref is not None and state.end is None and state.stop is None and not state.gone
