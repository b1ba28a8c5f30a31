"""Sessions whose programs and agents are gone with something undelivered get an agent, one after the other.

Finished sessions are deleted after their time.
"""

from __future__ import annotations

import time
from pathlib import Path

from tailrace_agent.errors import StateDirError
from tailrace_agent.log import Log
from tailrace_agent.session import Session
from tailrace_agent.spawn import Agent, spawn_agent

__all__ = ["Leftovers", "is_leftover", "is_newborn"]

_BEGIN_AFTER = 3.0
_LOOK_EVERY = 1.0
_PATIENCE = 60.0
"""Seconds that one leftover session may take before the next one is started beside it."""
_HURRIED_PATIENCE = 3.0
_NEWBORN = 60.0
_REFUSED_REST = 3600.0
"""Seconds for which a session whose store was refused is left alone; `tailrace sync` tries at once."""
_IDLE = 3600.0


def is_leftover(session: Session) -> bool:
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


class Leftovers:
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
        self._current: Agent | None = None
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
            self._forget_finished()
        if self._current is not None and self._current.poll() is None and now < self._current_since + self._patience:
            return now + _LOOK_EVERY
        self._current = None
        while self._todo:
            session = self._todo.pop(0)
            if is_leftover(session) and not is_newborn(session):
                session.touch_shared()
                self._current, self._current_since = spawn_agent(session, {}), now
                self._log.info("leftover session taken up", leftover=session.id)
                return now + _LOOK_EVERY
        self.done = True
        return now + _IDLE

    def _others(self) -> list[Session]:
        try:
            return [session for session in Session.all(self._own.info.settings) if session.id != self._own.id]
        except StateDirError as error:
            self._log.warning("other sessions are left alone", reason=str(error))
            return []

    def _forget_finished(self) -> None:
        """Deletes what nobody can need any more: no dead letters, nothing set aside, long enough ago."""
        limit = time.time() - self._own.info.settings.keep_days * 86400
        for session in self._todo or ():
            finished = session.dir / "finished"
            kept = any(session.dir.glob("spool.db.damaged-*"))
            if finished.exists() and finished.stat().st_mtime < limit and not kept and not finished.read_text():
                session.remove()
                self._log.info("finished session deleted", session=session.id)
