"""Looking at sessions from outside, and never in their way.

* A live session is known by the status files that its agent writes.
* A session without an agent is read from its spool, under the agent's lock for the moment that it takes: nobody else
  opens a spool, and an agent that is just being started waits for milliseconds.
* What a dead program has left in its rings is counted in bytes; only an agent (or `sync`) takes it over.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tailrace_agent import status
from tailrace_agent.cli._app import Code, Fail, ago
from tailrace_agent.cli._views import RunView, SessionView
from tailrace_agent.errors import SessionError
from tailrace_agent.ledger import Ledger
from tailrace_agent.records import run_hex
from tailrace_agent.runs import RunState
from tailrace_agent.session import Session
from tailrace_agent.settings import Settings
from tailrace_agent.spool import Spool
from tailrace_agent.status import AgentStatus, RunStatus

__all__ = ["Busy", "find_session", "look", "look_at_all", "reading", "run_of", "states"]

_SILENT_AFTER = 10.0
_SHOWN = 5


class Busy(Fail):
    """A live agent holds the session."""

    def __init__(self, session: Session) -> None:
        super().__init__(
            f"session {session.id} is live: wait until its program has ended (`tailrace status` shows it)", Code.BUSY
        )


def look_at_all(settings: Settings) -> list[SessionView]:
    """Every session of the state directory, the newest first."""
    return [look(session) for session in reversed(list(Session.all(settings)))]


def look(session: Session) -> SessionView:
    """One session."""
    info = session.info
    view = SessionView(
        id=session.id,
        state="leftover",
        program=info.program,
        host=info.hostname,
        created=info.created,
        directory=str(session.dir),
    )
    if session.elsewhere:
        view.state = "elsewhere"
        return view
    view.trainer_alive = any(session.owner_alive(ring) for ring in session.rings())
    try:
        with reading(session) as spool:
            view.runs = [run_of(spool, state) for state in states(spool)] if spool is not None else []
        view.in_ring_bytes = _unread(session)
        finished = (session.dir / "finished").exists()
        view.state = "finished" if finished else "starting" if view.trainer_alive else "leftover"
        for run in view.runs:
            if run.state == "RUNNING" and not view.trainer_alive:
                run.state = "UNKNOWN"
    except Busy:
        _look_at_live(session, view)
    except (SessionError, sqlite3.Error, OSError) as error:
        view.state, view.problem = "unreadable", str(error)
    return view


@contextmanager
def reading(session: Session) -> Iterator[Spool | None]:
    """The session's spool, for a moment; None where there is none yet.

    Raises:
        Busy: An agent holds the session.
        SessionError: The spool cannot be read; it is left as it is.
    """
    lock = session.try_agent_lock() if session.has_shared else -1
    if lock is None:
        raise Busy(session)
    try:
        path = session.dir / "spool.db"
        spool = _LookedAt(path) if path.exists() else None
        try:
            yield spool
        finally:
            if spool is not None:
                spool.close()
    finally:
        if lock >= 0:
            os.close(lock)


def states(spool: Spool) -> list[RunState]:
    """The runs of a spool, as its run book keeps them."""
    return [msgspec.json.decode(state, type=RunState) for state in spool.runs()]


def find_session(settings: Settings, text: str) -> Session:
    """The session that a person means: its id, the beginning of it, or the letters after its last dash.

    Raises:
        Fail: There is none, or several fit; the message says what each of them is.
    """
    known = list(Session.all(settings)) if text else []
    found = [s for s in known if text in (s.id, s.id.rpartition("-")[2])] or [s for s in known if s.id.startswith(text)]
    if not found:
        raise Fail(f"there is no session {text!r} here; `tailrace status --all` lists them", Code.UNKNOWN)
    if len(found) > 1:
        now = time.time()
        shown = [f"{s.id} ({s.info.program}, {look(s).state}, {ago(s.info.created, now)})" for s in found[-_SHOWN:]]
        some = f"{'…; ' if len(found) > _SHOWN else ''}{'; '.join(shown)}"
        raise Fail(f"{text!r} fits {len(found)} sessions: {some}; give more of an id", Code.UNKNOWN)
    return found[0]


class _LookedAt(Spool):
    """A spool that is only looked at: one that cannot be read stays where it is."""

    def _move_away(self) -> Path:
        raise SessionError(f"{self.path} cannot be read; the next delivery sets it aside and goes on without it")


def _look_at_live(session: Session, view: SessionView) -> None:
    view.state = "live"
    agent = status.read(session.shared / "agent.status", AgentStatus)
    if agent is not None:
        view.agent_pid, view.metrics_url = agent.pid, agent.metrics_url
        view.problem = agent.problem
        silent = time.time() - agent.seen
        if silent > _SILENT_AFTER:
            view.problem = f"its agent (process {agent.pid}) has given no sign of life for {silent:.0f} s"
    found = [status.read(path, RunStatus) for path in sorted(session.shared.glob("run-*.status"))]
    view.runs = [_from_status(run, session) for run in found if run is not None]


def _from_status(told: RunStatus, session: Session) -> RunView:
    return _view(
        told.ledger,
        run=run_hex(told.run),
        run_id=told.run_id,
        run_name=told.run_name,
        state=told.status,
        store=session.info.settings.tracking_uri,
        url=told.url,
        lag=told.lag,
        problem=told.refused or told.gone or told.problem,
        started=told.started or session.info.created,
    )


def run_of(spool: Spool, state: RunState) -> RunView:
    """A run of a spool."""
    oldest, ref = spool.oldest_ns(state.run), state.ref
    return _view(
        spool.ledger(state.run),
        run=run_hex(state.run),
        run_id=ref.run_id if ref else state.spec.run_id,
        run_name=ref.run_name if ref else state.spec.run_name,
        state=state.status,
        store=state.spec.tracking_uri,
        url=ref.url if ref else None,
        lag=max(0.0, time.time() - oldest / 1e9) if oldest else 0.0,
        problem=None if state.finalized and not state.gone else state.refused or state.gone or state.problem,
        started=state.spec.start_time / 1000,
    )


def _view(ledger: Ledger, **fields: object) -> RunView:
    total = ledger.total
    return RunView(
        accepted=total.accepted,
        delivered=total.delivered,
        pending=total.pending,
        dead=total.dead,
        dropped=total.dropped,
        **fields,  # type: ignore[arg-type]
    )


def _unread(session: Session) -> int:
    total = 0
    for name in session.rings():
        try:
            reader = session.reader(name)
        except (SessionError, OSError):
            continue
        total += reader.unread
        reader.close()
    return total
