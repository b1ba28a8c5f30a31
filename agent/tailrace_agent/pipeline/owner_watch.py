"""Runs whose process is gone, and that nobody has ended: what their ends are, until they are written."""

from __future__ import annotations

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc.records import End, run_hex
from tailrace_agent.ipc.session import Session
from tailrace_agent.log import Log
from tailrace_agent.pipeline.job_watch import Gone, JobWatch

__all__ = ["Gone", "OwnerWatch", "owner_alive"]


def owner_alive(session: Session, hosted: bool, ring: str) -> bool:
    """Whether the process of a ring lives.

    Args:
        session: Whose ring.
        hosted: This process logs, too: a look at the lock of a ring of its own would take the lock away.
        ring: The ring's name.
    """
    ours = hosted and session.is_ring_of_this_process(ring)
    return ours or session.owner_alive(ring)


class OwnerWatch:
    """Finds the runs of one session whose process is gone.

    Args:
        session: The session, for messages.
        book: The runs.
        log: Where operators read.

    Not thread-safe: the drain's thread calls everything.
    """

    def __init__(self, session: Session, book: RunBook, log: Log) -> None:
        self._session, self._book, self._log = session, book, log
        self._jobs = JobWatch(session, book, log)
        self._gone: dict[int, Gone] = {}

    @property
    def gone(self) -> dict[int, Gone]:
        """Ends that are still to be written, by run."""
        return dict(self._gone)

    def look(self, rings: set[str]) -> None:
        """Finds runs without an end whose ring is none of these."""
        for state in self._book.all():
            if state.ranks and state.spec.job is not None:
                self._jobs.watch(state)
                if (gone := self._jobs.end_of(state, rings)) is not None:
                    self._gone[state.run] = gone
                continue
            # A rebuilt record may have lost the name of its ring: its process may be any that lives.
            if state.end is None and state.ring not in rings and not (state.rebuilt and rings):
                self._gone[state.run] = self._end_of(state)

    @property
    def awaits_jobs(self) -> bool:
        """Whether a job may still say how it ended."""
        return bool(self._gone) or any(self._jobs.open(state) for state in self._book.all() if state.ranks)

    def forget(self, run: int) -> None:
        """The end of this run is written."""
        del self._gone[run]

    def _end_of(self, state: RunState) -> Gone:
        at = state.last_ns // 1_000_000 or state.spec.start_time
        if state.rebuilt:
            return Gone(End(state.run, "KILLED", at), "its record could not be read, and its programs are gone")
        if not state.spec.owned:  # a handle on somebody else's run: over, and nothing to report
            return Gone(End(state.run, "FINISHED", at), None)
        pid = state.ring.partition("-")[0]
        self._log.warning("run killed", run=run_hex(state.run), pid=pid)
        reason = (
            f"process {pid} on {self._session.info.hostname} disappeared without ending the run (killed, or crashed)"
        )
        return Gone(End(state.run, "KILLED", at), reason)
