"""The status files in shared memory: how the agent is, how each run is, and a bell for who should look at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc import status
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus, RunStatus
from tailrace_agent.log import Log
from tailrace_agent.observers.observers import Observers
from tailrace_agent.spool.store import Spool

__all__ = ["StatusFiles"]

_PUBLISH_EVERY: Final = 0.1


class StatusFiles:
    """Writes the status files of one session. One that cannot be written is written later, and stops nothing.

    Args:
        session: The session.
        spool: What waits.
        book: The runs.
        observers: Know how the metrics of a run have ended.
        agent: The status of this agent.
        log: Where operators read.

    Thread safety: `publish` from any thread; all else from the drain's.
    """

    def __init__(
        self, session: Session, spool: Spool, book: RunBook, observers: Observers, agent: AgentStatus, log: Log
    ) -> None:
        self._session, self._spool, self._book, self._agent, self._log = session, spool, book, agent, log
        self._observers = observers
        self._publishing = threading.Lock()
        self._publish_at = 0.0
        self._notified: dict[int, int] = {}

    @property
    def problem(self) -> str | None:
        """What keeps the agent from its work."""
        return self._agent.problem

    def publish_problem(self, problem: str | None) -> None:
        """Publishes what keeps the agent from its work; None when nothing does any more."""
        self._agent.problem = problem
        self._write_agent()

    def publish_liveness(self, metrics_url: str | None) -> None:
        """Publishes that the agent lives, how much waits, and where Prometheus finds its metrics."""
        self._agent.seen, self._agent.pending = time.time(), self._spool.waiting.points
        self._agent.spool_bytes, self._agent.metrics_url = self._spool.waiting.bytes, metrics_url
        self._write_agent()

    def publish(self, now: float, *, force: bool = False) -> None:
        """Answers those who wait, and rewrites the status files of the runs that changed."""
        # Held while it writes, unlike other locks: of two states of a run the older must not be written last.
        with self._publishing:
            # Each time, and published at once: somebody stands in a flush or an end for it.
            answered = self._book.settle_marks(self._spool.waiting.first)
            if now < self._publish_at and not force and not answered:
                return
            self._publish_at = now + _PUBLISH_EVERY
            for run in self._book.take_changed():
                try:
                    self._publish_run(run)
                except OSError as error:  # no room in shared memory, say: published as soon as there is some
                    self._log.warning("status not written", run=run_hex(run), reason=str(error))
                    self._book.touch(run)

    def _publish_run(self, run: int) -> None:
        state = self._book.get(run)
        if state is None:
            return
        oldest = self._spool.waiting.oldest_ns(run)
        lag = max(0.0, time.time() - oldest / 1e9) if oldest else 0.0
        ledger = self._spool.counts.ledger(run)
        ends, over = self._observers.metric_ends(run), state.finalized
        found = self._book.status(run, ledger, lag, ends)
        found.step = self._observers.last_step(run)
        found.computing = self._spool.waiting.of_devices(run)
        path = self._session.shared / status.run_file(run)
        if state.end is not None and not ends.shown:
            self._keep(path, found)
        status.write(path, found)
        if over:
            self._observers.forget(run, ends)
        news = len(state.notices) + (state.ref is not None)  # its link is news as soon as MLflow knows it
        if news > self._notified.get(run, 0):
            self._notified[run] = news
            # Not before the file is there: who is called reads it at once, and not again.
            # A request to stop is for all processes of the run; another notice for the one that has begun it.
            for ring in {state.ring, *self._session.rings()} if state.stop is not None else {state.ring}:
                self._session.ring_bell(ring)

    @staticmethod
    def _keep(path: Path, found: RunStatus) -> None:
        """What an earlier agent, or this one, has published of how the metrics ended stays there."""
        before = status.read(path, RunStatus)
        if before is not None:
            found.metrics = before.metrics
            found.step = max((step for step in (before.step, found.step) if step is not None), default=None)

    def _write_agent(self) -> None:
        try:
            status.write(self._session.shared / "agent.status", self._agent)
        except OSError as error:
            self._log.warning("status not written", reason=str(error))
