"""Sees to it that a session has an agent, for as long as this process lives.

A thread sleeps in the kernel until the agent's lock falls, and then starts another agent. It costs nothing while the
agent lives. Where no process can be started, or on request, the agent is threads of this process instead; so it is
when agents die before their first status, as they do where only this very process finds its packages, or write none,
as where `sys.executable` is a program that embeds Python.
"""

from __future__ import annotations

import contextlib
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from tailrace._session.credentials import CredentialsWatch
from tailrace_agent.decoding import decode_json
from tailrace_agent.files.descriptors import NONE_LEFT, SPARE
from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.hosts.spawn import Agent, can_spawn, request_exit, spawn_agent
from tailrace_agent.ipc import status
from tailrace_agent.runtime.originals import original, start_thread

if TYPE_CHECKING:
    from tailrace._messages.voice import Voice
    from tailrace_agent.hosts.thread import ThreadHost
    from tailrace_agent.ipc.session import Session
    from tailrace_agent.settings.settings import Settings

__all__ = ["Keeper"]

_QUICK_DEATH: Final = 5.0  # seconds; what ends sooner counts as a start that failed
_QUICK_DEATHS = 3
_PAUSE: Final = 30.0  # seconds between two tries where something is broken
_BREATH: Final = 1.0  # seconds between two looks while no descriptor is left
_MUTE_DEATHS: Final = 2
"""Agents that may die before their first status, until it is given up to start them."""
_FIRST_STATUS: Final = 30.0
"""Seconds within which an agent that works has written its status on a very busy machine, too."""


class Keeper:
    """Keeps one session's agent alive.

    Args:
        session: The session.
        settings: In force.
        voice: Prints lines and warnings.

    Thread safety: every method from any thread.
    """

    def __init__(self, session: Session, settings: Settings, voice: Voice) -> None:
        self._session, self._settings, self._voice = session, settings, voice
        # Here and not in the session's files; a successor gets all of them once more.
        self._credentials: dict[str, str] = {}
        self._thread_host: ThreadHost | None = None
        self._watch_credentials: CredentialsWatch | None = None
        self._agent: Agent | None = None
        self._started = self._closed = self._orphaned = self._silent = False

    @property
    def delivers_here(self) -> bool:
        """Whether the agent is threads of this process, and ends with it."""
        return self._thread_host is not None

    def remember(self, tracking_uri: str, credentials: str) -> None:
        """The `user:password` that belongs to a URI. It reaches the agent, and no file on a disk.

        An agent that runs already puts all that it has into the spool and is started anew with the addition.
        """
        # Each run brings its own: without this look each would start the agent anew.
        if self._credentials.get(tracking_uri) == credentials:
            return
        self._credentials[tracking_uri] = credentials
        if self._thread_host is not None:
            self._thread_host.remember(dict(self._credentials))
        elif self._started:
            self._start_anew()

    def expect_credentials(self) -> None:
        """The store requires a login: from now on credentials are looked for in the environment."""
        if self._watch_credentials is not None:
            self._watch_credentials.start()

    def start(self) -> None:
        """Starts an agent, unless one lives, and keeps one alive from now on."""
        self._started = True
        if self._settings.agent == "thread":
            self._start_host()
        elif not can_spawn():
            self._voice.warn("this interpreter cannot start a process of its own; delivering from a thread instead")
            self._start_host()
        else:
            self._watch_credentials = CredentialsWatch(self._start_anew)
            try:
                self._spawn()
            except OSError as error:
                self._voice.warn(f"no agent process can be started ({error}); delivering from a thread instead")
                self._start_host()
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
        self._thread_host = self._agent = None

    def adopt(self) -> None:
        """In a forked child that has begun to log: keep the agent alive from here, too."""
        # Not at the fork: most children (data loaders) log nothing, and need no thread.
        if self._orphaned:
            self._orphaned = False
            self._watch()

    def _start_anew(self) -> None:
        """Has the agent leave, if one lives: its successor gets what this process knows now."""
        with SPARE.lent():
            # Only then: where none lives, the keeper is starting one, which gets all that is known now.
            if self._session.agent_alive():
                request_exit(self._session)

    def _spawn(self) -> None:
        self._agent = agent = spawn_agent(self._session, self._credentials)
        if agent is not None:
            start_thread(partial(self._await_first_status, agent), "tailrace-first-word")

    def _await_first_status(self, agent: Agent) -> None:
        # Not gevent's `sleep`, which would run an event loop in this thread.
        original("time", "sleep")(_FIRST_STATUS)
        # `_agent` is another one by now if the keeper was quicker.
        if self._agent is agent and not self._wrote_status(agent):
            self._silent = True
            agent.kill()

    def _watch(self) -> None:
        start_thread(self._keep, "tailrace-keeper")

    def _start_host(self) -> bool:
        """Delivers from threads of this process, unless somebody else delivers."""
        # The same lock as an agent process: so there are never two that deliver, of whichever kind.
        lock = self._session.try_agent_lock()
        if lock is None:
            return False
        # MLflow imports this, perhaps not before the program's end, and then it refuses to be imported.
        import concurrent.futures.thread  # noqa: F401

        from tailrace_agent.hosts.thread import ThreadHost  # structlog and the pipeline, only where they run

        try:
            self._thread_host = ThreadHost(self._session, lock, dict(self._credentials))
        except BaseException:
            let_go(lock)  # kept, it would look like an agent that lives
            raise
        return True

    def _keep(self) -> None:
        deaths, mute, started = 0, 0, time.monotonic()
        while True:
            try:
                self._session.wait_for_agent_death()
            except OSError as error:
                if error.errno not in NONE_LEFT:  # the session was given up
                    return
                original("time", "sleep")(_BREATH)
                continue
            # A program that has ended needs no agent; nor does a session whose directory was deleted.
            if self._closed or self._session.closed or not self._session.has_shared:
                return
            # Two in a row: one alone may have been killed by the OOM killer while it imported.
            mute = 0 if self._had_begun() else mute + 1
            if (mute >= _MUTE_DEATHS or self._silent) and self._deliver_from_here():
                return
            # Short lives in a row: an agent that was killed after hours of work is replaced at once.
            deaths = deaths + 1 if time.monotonic() - started < _QUICK_DEATH else 0
            if deaths >= _QUICK_DEATHS:
                errors = self._session.dir / "agent.err"
                self._voice.warn(f"the agent keeps dying; see {errors}. Nothing is lost so far.")
                original("time", "sleep")(_PAUSE)
            started = time.monotonic()
            self._start_another()

    def _had_begun(self) -> bool:
        """Whether the agent that has died got as far as its own code; one that others have started counts as well."""
        dead, self._agent = self._agent, None
        if dead is None:
            return True
        dead.reap()
        return self._wrote_status(dead)

    def _wrote_status(self, agent: Agent) -> bool:
        try:
            with SPARE.lent():
                text = (self._session.shared / "agent.status").read_bytes()
        except OSError as error:
            return error.errno in NONE_LEFT  # then it is unknown, and counts as written
        with contextlib.suppress(msgspec.DecodeError):
            # The file may be that of the agent before.
            return decode_json(text, status.AgentStatus).group == agent.group
        return False

    def _deliver_from_here(self) -> bool:
        errors = self._session.dir / "agent.err"
        try:
            # Why it died, as far as it came: Python's own traceback goes there.
            last = errors.read_text(errors="replace").strip().splitlines()[-1:]
            if not self._start_host():
                return False
        except Exception as error:  # noqa: BLE001 - whatever keeps threads from it; a process is tried again
            self._voice.warn(f"no agent can be started, neither as a process nor as a thread: {error}")
            return False
        detail = f" ({last[0]})" if last else ""
        fault = f"does not begin (is {sys.executable} a Python?)" if self._silent else f"ends before it begins{detail}"
        self._voice.warn(
            f"the agent process {fault}; delivering from a thread of this program instead. "
            f"All that it said is in {errors}."
        )
        return True

    def _start_another(self) -> None:
        sleep = original("time", "sleep")
        try:
            with SPARE.lent(many=True):
                self._spawn()
            if self._agent is None:
                sleep(0.05)  # another process was quicker
        except OSError as error:
            self._voice.warn(f"no agent process can be started: {error}; trying again")
            sleep(_PAUSE)
