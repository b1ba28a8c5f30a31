"""Sees to it that a session has an agent, for as long as this process lives.

A thread sleeps in the kernel until the agent's lock falls, and then starts another agent. It costs nothing while the
agent lives. Where no process can be started, or when asked for, the agent is threads of this process instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from tailrace_agent import status
from tailrace_agent.spawn import can_spawn, spawn_agent

if TYPE_CHECKING:
    from tailrace._say import Voice
    from tailrace_agent.session import Session
    from tailrace_agent.settings import Settings
    from tailrace_agent.thread_host import ThreadHost

__all__ = ["Keeper"]

_QUICK_DEATH = 5.0
_QUICK_DEATHS = 3
_PAUSE = 30.0


class Keeper:
    """Keeps one session's agent alive.

    Args:
        session: The session.
        settings: In force.
        voice: Says what has to be said.

    Thread safety: every method from any thread.
    """

    def __init__(self, session: Session, settings: Settings, voice: Voice) -> None:
        self._session, self._settings, self._voice = session, settings, voice
        self._credentials: dict[str, str] = {}
        self._thread_host: ThreadHost | None = None
        self._started = self._closed = self._orphaned = False

    def remember(self, tracking_uri: str, credentials: str) -> None:
        """The `user:password` that belongs to a URI. It reaches the agent by environment only, never by a file.

        An agent that runs already puts all that it has into the spool and is started anew with the addition.
        """
        if self._credentials.get(tracking_uri) == credentials:
            return
        self._credentials[tracking_uri] = credentials
        if self._thread_host is not None:
            self._thread_host.remember(dict(self._credentials))
        elif self._started:
            agent = status.read(self._session.shared / "agent.status", status.AgentStatus)
            if agent is not None and self._session.agent_alive():
                with contextlib.suppress(OSError):  # it has just died by itself, and the next one knows
                    os.kill(agent.pid, signal.SIGTERM)

    def start(self) -> None:
        """Starts an agent, unless one lives, and keeps one alive from now on."""
        self._started = True
        if self._settings.agent != "process":
            self._start_thread()
        elif not can_spawn():
            self._voice.warn("this interpreter cannot start a process of its own; delivering from a thread instead")
            self._start_thread()
        else:
            try:
                spawn_agent(self._session, self._credentials)
            except OSError as error:
                self._voice.warn(f"no agent process can be started ({error}); delivering from a thread instead")
                self._start_thread()
            else:
                self._watch()

    def close(self, timeout: float) -> None:
        """The process ends: a thread-hosted agent is stopped; an agent process goes on by itself."""
        self._closed = True
        if self._thread_host is not None:
            self._thread_host.stop(timeout)

    def after_fork(self) -> None:
        """In a forked child: the threads have stayed behind."""
        # A thread-hosted agent lives in the parent, and nobody replaces it.
        self._orphaned = self._started and self._thread_host is None
        self._thread_host = None

    def adopt(self) -> None:
        """In a forked child that has begun to log: keep the agent alive from here, too."""
        if self._orphaned:
            self._orphaned = False
            self._watch()

    def _watch(self) -> None:
        threading.Thread(target=self._keep, name="tailrace-keeper", daemon=True).start()

    def _start_thread(self) -> None:
        lock = self._session.try_agent_lock()
        if lock is None:
            return
        # MLflow imports this, perhaps not before the program's end, and then it refuses to be imported.
        import concurrent.futures.thread  # noqa: F401

        from tailrace_agent.thread_host import ThreadHost  # structlog and the pipeline, only where they run

        self._thread_host = ThreadHost(self._session, lock, dict(self._credentials))

    def _keep(self) -> None:
        deaths, started = 0, time.monotonic()
        while True:
            try:
                self._session.wait_for_agent_death()
            except OSError:  # the session was given up
                return
            if self._closed or self._session.closed or not self._session.shared.is_dir():
                return
            deaths = deaths + 1 if time.monotonic() - started < _QUICK_DEATH else 0
            if deaths >= _QUICK_DEATHS:
                errors = self._session.dir / "agent.err"
                self._voice.warn(f"the agent keeps dying; see {errors}. Nothing is lost so far.")
                time.sleep(_PAUSE)
            started = time.monotonic()
            self._start_another()

    def _start_another(self) -> None:
        try:
            if spawn_agent(self._session, self._credentials) is None:
                time.sleep(0.05)  # another process was quicker
        except OSError as error:
            self._voice.warn(f"no agent process can be started: {error}; trying again")
            time.sleep(_PAUSE)
