"""The agent as threads of the training process, where no process can be started, or on request.

The same pipeline; delivery then takes the trainer's GIL now and then. Rings and spool outlive the process as ever, and
what a killed trainer leaves behind is delivered by the next start or `tailrace sync`.
"""

from __future__ import annotations

import os
import time

from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.hosts.log_file import open_log
from tailrace_agent.hosts.process import open_sink
from tailrace_agent.hosts.workers import Host
from tailrace_agent.ipc.finished import mark_finished
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.pipeline import Pipeline

__all__ = ["ThreadHost"]


class ThreadHost:
    """An agent in this process.

    Args:
        session: The session.
        lock: Descriptor that holds its agent lock; closed by `stop`.
        credentials: `user:password` by masked URI.

    Thread safety: `stop` from any thread.
    """

    def __init__(self, session: Session, lock: int, credentials: dict[str, str]) -> None:
        self._session, self._pid = session, os.getpid()
        self._lock: int | None = lock
        self._stopped = self._opened = False
        os.register_at_fork(after_in_child=self._after_fork)  # first: to open a damaged spool takes up to a minute
        log = open_log(session.dir / "agent.log", session.info.settings.log_level, pid=os.getpid(), host="thread")
        try:
            self._pipeline = Pipeline.open(session, open_sink, log, host="thread", hosted=True, credentials=credentials)
        except BaseException:
            self._lock = None  # the caller's again
            raise
        self._opened = True
        self._host = Host(self._pipeline, log)
        self._host.start()

    def remember(self, credentials: dict[str, str]) -> None:
        """Further credentials."""
        self._pipeline.book.remember(credentials)

    def stop(self, timeout: float) -> None:
        """Ends the threads, drains once more, and tidies up if nothing is left to do."""
        if os.getpid() != self._pid or self._stopped:
            return
        ended = self._host.stop(timeout)
        if not ended:  # a request hangs: its thread may go on writing, so spool and lock stay with it
            return
        self._stopped = True
        self._pipeline.rings.find()  # one that has come since the last look around: no agent will look again
        self._pipeline.drain(time.monotonic())
        ours = all(map(self._session.is_ring_of_this_process, self._session.rings()))
        settled = self._pipeline.settled and self._pipeline.rings.exhausted and ours
        runs, dead = len(self._pipeline.book.all()), self._pipeline.spool.letters.number
        self._pipeline.close()
        if settled:
            mark_finished(self._session, runs=runs, dead=dead, at=time.time())
            self._session.remove_shared()
        lock, self._lock = self._lock, None
        assert lock is not None
        let_go(lock)

    def _after_fork(self) -> None:
        # Once, and not after `stop`: by then the lock's number may be that of a file of the program's.
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
            if self._opened:
                self._pipeline.spool.leak()
                self._pipeline.observers.after_fork()
