"""Sessions whose programs and agents are gone with something undelivered get an agent, one after the other.

Finished sessions are deleted after their time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from tailrace_agent.errors import SessionError, StateDirError
from tailrace_agent.hosts.spawn import spawn_agent
from tailrace_agent.ipc.finished import finished, set_aside
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.survey import Unreadable, survey
from tailrace_agent.log import Log
from tailrace_agent.retry import IDLE

__all__ = ["AbandonedSessions", "is_abandoned", "is_newborn"]

_BEGIN_AFTER = 3.0
_LOOK_EVERY = 1.0
_PATIENCE = 60.0
"""Seconds that one leftover session may take before the next one is started beside it."""
_HURRIED_PATIENCE = 3.0
_NEWBORN = 60.0
_REFUSED_REST = 3600.0
"""Seconds for which a session whose store was refused is left alone; `tailrace sync` tries at once."""


def is_abandoned(session: Session) -> bool:
    """Whether a session of this host has something undelivered and nobody who would deliver it."""
    if not session.dir.is_dir():  # deleted in the meantime
        return False
    if session.elsewhere or (session.dir / "finished").exists() or session.agent_alive():
        return False
    refused = session.dir / "refused"
    if refused.exists() and time.time() - refused.stat().st_mtime < _REFUSED_REST:
        return False
    return not any(session.owner_alive(ring) for ring in session.rings())


def is_newborn(session: Session) -> bool:
    """Whether its program has made the directory and has not come to its first ring yet: a matter of milliseconds."""
    young = time.time() - session.info.created < _NEWBORN
    return young and session.info.pid > 0 and Path(f"/proc/{session.info.pid}").exists() and not session.rings()


class AbandonedSessions:
    """Looks once after every start of an agent.

    Args:
        own: The session of the agent that looks.
        log: Where operators read.

    Attributes:
        done: Every leftover session has got its agent.

    Thread safety: one thread calls `step`; `hurry` from any thread.
    """

    def __init__(self, own: Session, log: Log) -> None:
        self._own, self._log = own, log
        self._begin_at: float | None = None
        self._todo: list[Session] | None = None
        self._current: Session | None = None
        self._current_since = 0.0
        self._patience = _PATIENCE
        self.done = False

    def hurry(self) -> None:
        """The agent wants to leave: begin now, and wait for none of them for long."""
        self._begin_at, self._patience = 0.0, _HURRIED_PATIENCE

    def step(self, now: float) -> float:
        """Starts the next agent when the last one has ended; when to be called again."""
        if self._begin_at is None:
            self._begin_at = now + _BEGIN_AFTER
        if now < self._begin_at:
            return self._begin_at
        if self._todo is None:
            self._todo = self._others()
            for session in self._todo:
                with self._alone(session):
                    self._forget_if_finished(session)
        if self._current is not None and self._has_agent(self._current) and now < self._current_since + self._patience:
            return now + _LOOK_EVERY
        self._current = None
        while self._todo:
            session = self._todo.pop(0)
            with self._alone(session):
                if self._take_up(session):
                    self._current, self._current_since = session, now
                    return now + _LOOK_EVERY
        self.done = True
        return now + IDLE

    def _others(self) -> list[Session]:
        others = []
        try:
            for found in survey(self._own.info.settings):
                if isinstance(found, Unreadable):
                    self._log.warning("session cannot be read", path=found.name, reason=found.problem, mend=found.mend)
                elif found.id != self._own.id:
                    others.append(found)
        except StateDirError as error:
            self._log.warning("sessions cannot be read", reason=str(error))
        return others

    @contextlib.contextmanager
    def _alone(self, session: Session) -> Iterator[None]:
        """What is wrong with one session (its owner, its mode, its disk) concerns no other, and keeps no agent."""
        try:
            yield
        except (OSError, SessionError) as error:
            self._log.warning("session left alone", session=session.id, reason=str(error))

    def _take_up(self, session: Session) -> bool:
        """Whether it has an agent now that was started here."""
        if not is_abandoned(session) or is_newborn(session):
            return False
        session.touch_shared()
        # Without credentials: what a program was given is in no file, and went with it.
        started = spawn_agent(session, {}) is not None
        self._log.info("leftover session taken up", leftover=session.id)
        return started

    def _has_agent(self, session: Session) -> bool:
        with contextlib.suppress(OSError, SessionError):  # what is wrong with it is reported where it is taken up
            return session.agent_alive()
        return False

    def _forget_if_finished(self, session: Session) -> None:
        """Deletes what nobody can need any more: no dead letters, nothing set aside, long enough ago."""
        limit = time.time() - self._own.info.settings.keep_days * 86400
        last = finished(session)
        if last is not None and last.at < limit and not last.dead and not set_aside(session):
            session.remove()
            self._log.info("finished session deleted", session=session.id)
