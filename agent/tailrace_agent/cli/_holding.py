"""Taking a session over: its agent lock, once nobody of it lives."""

from __future__ import annotations

import time
from typing import Final

from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.hosts.spawn import request_exit
from tailrace_agent.ipc.session import Session

__all__ = ["relieve", "take_over"]

_LEAVES_WITHIN: Final = 20.0  # seconds


def take_over(session: Session) -> int | None:
    """A descriptor that holds the session's agent lock; None while an agent or a program of it lives."""
    if not session.has_shared:  # after a reboot: the lock's place is gone with it
        session.touch_shared()
    lock = None if _programs_live(session) else session.try_agent_lock()
    if lock is not None and _programs_live(session):  # one has joined in between: it will want an agent of its own
        let_go(lock)
        return None
    return lock


def relieve(session: Session) -> int | None:
    """As `take_over`, and has an agent that has outlived its programs leave: it goes on trying for a day.

    SIGTERM makes it put everything into the spool and go; nothing is lost.
    """
    lock = take_over(session)
    if lock is not None or _programs_live(session) or not request_exit(session):
        return lock
    deadline = time.monotonic() + _LEAVES_WITHIN
    while lock is None and time.monotonic() < deadline and not _programs_live(session):
        time.sleep(0.05)
        lock = take_over(session)
    return lock


def _programs_live(session: Session) -> bool:
    return any(session.owner_alive(ring) for ring in session.rings())
