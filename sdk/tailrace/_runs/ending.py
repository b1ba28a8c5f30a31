"""How one run is waited for, and how it ends: within its time-out, with a line on what is left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from tailrace._background.lane import drain
from tailrace._messages.notebook import has_card
from tailrace._messages.summary import end_lines, handed_line, left_line, nested_left, new_store
from tailrace._messages.voice import print_line
from tailrace._messages.waiting import until
from tailrace_agent.ipc.records import End, Flush, Start
from tailrace_agent.ipc.status import MetricEnds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace._messages.voice import Voice
    from tailrace._session.connection import Connection
    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.ipc.status import RunStatus
    from tailrace_agent.settings.settings import Settings

__all__ = ["Ending", "wait_was_ended"]

_SECOND_WITHIN: Final = 60.0
"""Seconds within which a second Ctrl-C in a final wait is meant for the script, and not for the wait."""
_LOOK_EVERY: Final = 0.02  # seconds
_interrupted_at = float("-inf")


class Ending:
    """The waits of one run.

    Args:
        spec: What the run is.
        connection: This process's session.
        settings: In force for the run.
        voice: Prints lines and warnings.
        status: Reads the run's status, as the agent published it last.
        prepare: Has the background work of this process done before the run's end, within some seconds.

    Thread safety: every method from any thread.
    """

    def __init__(
        self,
        spec: RunSpec,
        connection: Connection,
        settings: Settings,
        voice: Voice,
        status: Callable[[], RunStatus | None],
        prepare: Callable[[float], None],
    ) -> None:
        self._spec, self._connection, self._settings = spec, connection, settings
        self._voice, self._status, self._prepare = voice, status, prepare
        # Looked for now: later the database is there.
        self._new_store = new_store(spec) if spec.owned and spec.run_id is None else None

    def settle(self, timeout: float, *, closed: bool = False, nested: Sequence[int] = ()) -> RunStatus | None:
        """Waits for everything before this call; with `closed`, also until MLflow knows of the run's end."""
        return self.settling(timeout, closed=closed, nested=nested)()

    def settling(
        self, timeout: float, *, closed: bool = False, nested: Sequence[int] = ()
    ) -> Callable[[], RunStatus | None]:
        """The same in two steps, so that several runs are waited for at once: what is returned waits."""
        connection = self._connection
        deadline = time.monotonic() + timeout
        # What the background still holds has to be in the ring before the token is.
        drain(timeout)
        # By ring: every process counts its own tokens, and the agent answers each ring.
        token, ring = connection.next_token(), connection.ring_name

        def request() -> None:
            connection.put(Flush(self._spec.run, token))

        request()
        return lambda: self.until(
            lambda s: (s.settled.get(ring, 0) >= token and (s.closed or not closed)) or bool(s.refused),
            max(0.0, deadline - time.monotonic()),
            nudge=request,  # an agent that was killed may have read it and not answered
            below=lambda: nested_left(self._known(nested), len(nested)),
        )

    def until(
        self,
        done: Callable[[RunStatus], bool],
        timeout: float,
        nudge: Callable[[], None] | None = None,
        below: Callable[[], str | None] = lambda: None,
    ) -> RunStatus | None:
        """Waits until the agent's status meets a condition; see `waiting.until`."""
        return until(
            self._status,
            done,
            timeout=timeout,
            nudge=nudge,
            quiet=self._settings.quiet,
            new_store=self._new_store,
            below=below,
            trouble=lambda: self._connection.trouble,
        )

    def await_others(self, runs: Sequence[int], timeout: float) -> list[RunStatus]:
        """Waits until MLflow knows of the end of runs that were handed over; what is known of them then."""
        deadline = time.monotonic() + timeout
        while True:
            known = self._known(runs)
            over = sum(status.over for status in known)
            if over == len(runs) or time.monotonic() >= deadline:
                return known
            time.sleep(min(_LOOK_EVERY, max(0.0, deadline - time.monotonic())))

    def finish(self, end: Callable[[], End], timeout: float, *, nested: Sequence[int] = ()) -> None:
        """Sends the agent the run's end, waits for the delivery, and reports what became of it.

        Args:
            end: Gives the end, when all that this process still had to do is done.
            timeout: Seconds; 0 hands over to the agent.
            nested: Runs below this one that were handed over: the agent ends this one after them.
        """
        began = time.monotonic()
        ended: End | None = None
        try:
            try:
                self._prepare(timeout)
            finally:
                # Also after Ctrl-C: without its end the run would stay RUNNING in MLflow.
                ended = end()
                self.hand_over(ended)
            # Without a look at the status, which the agent cannot have written yet.
            if not timeout:
                self._report_handover()
                return
            status = self.settle(max(0.0, began + timeout - time.monotonic()), closed=True, nested=nested)
        except KeyboardInterrupt:
            # The second Ctrl-C: the end is handed over by now, so the script may go.
            if not _ends_the_wait():
                raise
            self._leave(self._status(), time.monotonic() - began, nested, interrupted=True)
            return
        others = self._known(nested)
        if status is not None and status.closed and not status.ledger.pending:
            if not self._settings.quiet:
                metrics = MetricEnds() if has_card(self._spec.run) else status.metrics
                shown = msgspec.structs.replace(status, metrics=metrics)
                for line in end_lines(shown, ended.cost, self._spec, others, self._settings):
                    print_line(line)
        # A store that refuses everything was reported by a notice.
        elif status is None or not status.refused:
            self._leave(status, time.monotonic() - began, nested)

    def _known(self, runs: Sequence[int]) -> list[RunStatus]:
        return [status for run in runs if (status := self._connection.status(run)) is not None]

    def hand_over(self, end: End) -> None:
        """Sends the agent the run's end, and waits for nothing."""
        # The record once more, for an agent that has lost its own with a damaged spool.
        self._connection.put(Start(self._spec, again=True))
        self._connection.put(end)

    def _report_handover(self) -> None:
        obstacle = self._connection.obstacle
        if obstacle is not None:
            self._leave(None, 0.0)
        elif not self._settings.quiet:
            self._voice.remark(handed_line(in_process=self._in_process))

    @property
    def _in_process(self) -> bool:
        """Whether the agent is a process of its own."""
        return self._settings.agent in ("process", "node") and not self._connection.keeper.delivers_here

    def _leave(
        self, status: RunStatus | None, waited: float, nested: Sequence[int] = (), *, interrupted: bool = False
    ) -> None:
        line = left_line(
            status,
            waited,
            in_process=self._in_process,
            nested=nested_left(self._known(nested), len(nested)),
            interrupted=interrupted,
            unsent=self._connection.obstacle,
            trouble=self._connection.trouble,
        )
        self._voice.warn(line, once=("left", self._spec.run))


def wait_was_ended() -> bool:
    """Whether somebody has ended a final wait a moment ago, and wants no more of them."""
    return time.monotonic() - _interrupted_at <= _SECOND_WITHIN


def _ends_the_wait() -> bool:
    """Whether this Ctrl-C ends the wait; a second one soon after it ends the script."""
    global _interrupted_at
    before, _interrupted_at = _interrupted_at, time.monotonic()
    return _interrupted_at - before > _SECOND_WITHIN
