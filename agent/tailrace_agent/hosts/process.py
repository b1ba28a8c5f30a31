"""The agent as a process: drains one session until its programs are gone and everything is delivered, then ends.

It runs at low priority, ignores SIGINT and SIGHUP, and on SIGTERM puts what the rings hold into the spool and leaves;
the trainer starts another one, or `tailrace sync` delivers the rest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

from tailrace_agent.errors import Unavailable
from tailrace_agent.files.ownership import write_own
from tailrace_agent.files.whole_files import make_durable
from tailrace_agent.hosts.abandoned_sessions import AbandonedSessions
from tailrace_agent.hosts.spawn import take_credentials
from tailrace_agent.hosts.worker import Worker
from tailrace_agent.hosts.workers import Host
from tailrace_agent.ipc import status
from tailrace_agent.ipc.finished import mark_finished, set_aside
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus
from tailrace_agent.log import Log
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.runtime.file_limit import explained, raise_limit
from tailrace_agent.runtime.left_out import left_out
from tailrace_agent.runtime.places import is_nowhere
from tailrace_agent.sinks.base import Sink

__all__ = ["main", "open_sink"]


def open_sink(tracking_uri: str | None, cwd: str, *, request_timeout: float) -> Sink:
    """The `SinkFactory` of a process that others run code in: MLflow is imported, and used as they have set it up.

    Raises:
        Unavailable: Now it cannot be opened.
        StoreRefused: It never can.
    """
    return _open(tracking_uri, cwd, request_timeout, own_process=False)


def _open_in_own_process(tracking_uri: str | None, cwd: str, *, request_timeout: float) -> Sink:
    """The same in a process that is all ours: MLflow is imported where it is needed, and without pandas."""
    _go_somewhere()
    return _open(tracking_uri, cwd, request_timeout, own_process=True)


def _open(tracking_uri: str | None, cwd: str, request_timeout: float, *, own_process: bool) -> Sink:
    from tailrace_agent.sinks import mlflow as mlflow_sink

    if is_nowhere():
        raise Unavailable(
            "the program's working directory was deleted, and MLflow needs one: go to another with os.chdir(), or "
            "deliver later with `tailrace sync`"
        )
    return mlflow_sink.open_sink(tracking_uri, cwd, request_timeout=request_timeout, own_process=own_process)


def main() -> None:
    """Entry point: the session's directory and the descriptor that holds its lock are the arguments."""
    session = Session.open(Path(sys.argv[1]))
    _go_to(session.info.cwd)
    _publish_first_status(session)
    os.set_inheritable(int(sys.argv[2]), False)  # else git, or another session's agent, would keep the lock
    settings = session.info.settings
    with left_out("rich"):  # structlog would load it, for terminals
        from tailrace_agent.hosts.log_file import open_log
    log = open_log(session.dir / "agent.log", settings.log_level, pid=os.getpid(), session=session.id)
    _lower_priority(settings.nice, log)
    raise_limit()
    try:
        _make_durable(session, log)
        pipeline = Pipeline.open(session, _open_in_own_process, log, credentials=take_credentials())
    except (sqlite3.Error, OSError) as error:
        _publish_first_status(session, f"the agent cannot use {session.dir}: {explained(error, session.dir)}")
        raise
    # Only for a living program: see `abandoned_sessions`.
    alive = any(session.owner_alive(ring) for ring in session.rings())
    agent = _Agent(pipeline, log, AbandonedSessions(session, log) if alive else None)
    host = Host(pipeline, log, agent.may_leave)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: host.drainer.leave())
    log.info("agent started", spool=str(pipeline.spool.path))
    agent.start()
    host.run()
    # What is still under way then, a request that hangs, is left to the next agent, which repeats it.
    host.stop(1.0)
    pipeline.drain(time.monotonic())
    agent.finish()


class _Agent:
    """When to leave, and what to leave behind."""

    def __init__(self, pipeline: Pipeline, log: Log, abandoned: AbandonedSessions | None) -> None:
        self._pipeline, self._log, self._abandoned = pipeline, log, abandoned
        self._looker = Worker("tailrace-leftovers", abandoned.step, log) if abandoned is not None else None
        self._deserted_since: float | None = None
        self._closed = False

    def start(self) -> None:
        """Begins to look after sessions that others have left."""
        if self._looker is not None:
            self._looker.start()

    def may_leave(self, now: float) -> bool:
        """Whether the programs are gone and there is nothing more that this agent could do."""
        pipeline = self._pipeline
        _go_somewhere()
        if not pipeline.deserted:
            self._deserted_since = None
            return False
        if not pipeline.session.dir.exists():  # deleted by hand: what it held is not to be delivered
            return True
        if not pipeline.session.has_shared:  # as after a logout; the lock is gone with it, so another one may deliver
            return True
        self._deserted_since = self._deserted_since or now
        lingered = now - self._deserted_since > pipeline.session.info.settings.linger
        if not (pipeline.settled or pipeline.stuck or lingered):
            return False
        if self._abandoned is not None and self._looker is not None and not self._abandoned.done:
            self._abandoned.hurry()
            self._looker.wake()
            return False
        self._closed = pipeline.session.close_if_deserted()
        return self._closed

    def finish(self) -> None:
        """Closes the spool; marks the session finished if it is."""
        pipeline, session = self._pipeline, self._pipeline.session
        if not session.dir.exists():
            session.remove_shared()
            return
        settled = self._closed and pipeline.settled
        runs, dead = len(pipeline.book.all()), pipeline.spool.letters.number
        if pipeline.stuck and not pipeline.settled:
            write_own(session.dir / "refused", b"")  # its age keeps other agents from taking the session up at once
        pipeline.close()  # first: who finds `finished` may open the spool, or delete it
        if settled:
            try:
                mark_finished(session, runs=runs, dead=dead, at=time.time())
            except OSError as error:  # a full disk: who looks at it next finds nothing left to do, and notes it then
                self._log.warning("the session could not be marked as finished", reason=str(error))
                settled = False
        self._log.info("agent leaves", settled=settled, pending=pipeline.spool.waiting.points)
        if self._closed:
            session.remove_shared()
        if settled and not runs and not set_aside(session):
            session.remove()


def _go_to(directory: str) -> None:
    """Where relative paths in a store's own data are meant from."""
    try:
        os.chdir(directory)
    except OSError:  # deleted meanwhile, or of another machine
        os.chdir("/")


def _go_somewhere() -> None:
    """Libraries look up the working directory at any moment, and that of the program may go away."""
    if is_nowhere():
        os.chdir("/")


def _publish_first_status(session: Session, problem: str | None = None) -> None:
    """Whoever has started this agent knows from now on that it can be started; or why it cannot go on."""
    now = time.time()
    with contextlib.suppress(OSError):  # no room in shared memory: reported when something depends on it
        status.write(
            session.shared / "agent.status",
            AgentStatus(pid=os.getpid(), host="process", started=now, seen=now, problem=problem, group=os.getpgrp()),
        )


def _make_durable(session: Session, log: Log) -> None:
    """Has the session be found after a power cut. Here, and not where its file is written: that is in training."""
    try:
        make_durable(session.dir / "session.json")
    except OSError as error:
        log.warning("session.json may not survive a power cut", reason=str(error))


def _lower_priority(nice: int, log: Log) -> None:
    try:
        os.nice(nice)
    except OSError as error:
        log.warning("priority stays", reason=str(error))
