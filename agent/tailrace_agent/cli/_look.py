"""Looking at sessions from outside, and never in their way.

* A live session is known by the status files that its agent writes.
* A session without an agent is read from its spool, under the agent's lock for the moment that it takes: nobody else
  opens a spool, and an agent that is just being started waits for milliseconds.
* Of a finished session in which nothing is left, the spool is not opened unless somebody wants to see its runs.
* What a dead program has left in its rings is counted in bytes; only an agent (or `sync`) takes it over.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from tailrace_agent.cli._app import Code, Fail, ago
from tailrace_agent.cli._views import RunView, SessionView
from tailrace_agent.delivery.run_records import restored, stand_in
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.errors import SessionError
from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.ipc import status
from tailrace_agent.ipc.finished import finished, set_aside
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.session import Session, sessions_root
from tailrace_agent.ipc.status import AgentStatus, RunStatus
from tailrace_agent.ipc.stored import UNREADABLE
from tailrace_agent.ipc.survey import Unreadable, mend_for, survey
from tailrace_agent.ledger import Ledger
from tailrace_agent.settings.settings import Settings
from tailrace_agent.spool.database import Database, NotASpool
from tailrace_agent.spool.store import Spool

__all__ = [
    "Busy",
    "find_session",
    "glance",
    "in_full",
    "look",
    "look_at_all",
    "reading",
    "run_of",
    "states",
    "statuses",
]

_SILENT_AFTER = 10.0  # seconds; an agent writes its status with each drain
_SHOWN = 5


class Busy(Fail):
    """A live agent holds the session."""

    def __init__(self, session: Session) -> None:
        super().__init__(
            f"session {session.id} is live: wait until its program has ended (`tailrace status` shows it)", Code.BUSY
        )


def look_at_all(settings: Settings) -> list[SessionView]:
    """Every session of the state directory at a glance, the newest first, and what lies there and is none.

    Raises:
        StateDirError: The directory of all sessions cannot be read.
    """
    found = list(survey(settings))
    return [_unreadable(each) if isinstance(each, Unreadable) else glance(each) for each in reversed(found)]


def look(session: Session) -> SessionView:
    """One session, with its runs."""
    view = _outside(session)
    if view.state != "elsewhere":
        with _own_faults(view):
            _look_inside(session, view)
    return view


def glance(session: Session) -> SessionView:
    """As `look`, without the runs of a finished session in which nothing is left."""
    view = _outside(session)
    if view.state == "elsewhere":
        return view
    with _own_faults(view):
        last = None if session.has_shared else finished(session)
        if last is None or last.dead or (last.dead is None and _holds_dead(session)):
            _look_inside(session, view)
        else:
            view.state = "finished"
            _report_set_aside(session, view)
    return view


def in_full(settings: Settings, view: SessionView) -> SessionView:
    """What `glance` has left out, if it has."""
    if view.state != "finished" or view.runs:
        return view
    try:
        return look(Session.open(sessions_root(settings) / view.id))
    except SessionError:  # deleted meanwhile
        return view


def _outside(session: Session) -> SessionView:
    info = session.info
    return SessionView(
        id=session.id,
        state="elsewhere" if session.elsewhere else "leftover",
        program=info.program,
        host=info.hostname,
        created=info.created,
        directory=str(session.dir),
    )


def _unreadable(found: Unreadable) -> SessionView:
    return SessionView(
        id=found.name,
        state="unreadable",
        program="?",
        host="?",
        created=found.since,
        directory=str(found.path),
        problem=f"it {found.problem}",
        mend=found.mend,
    )


@contextmanager
def _own_faults(view: SessionView) -> Iterator[None]:
    """What is wrong with a session is reported for that session."""
    try:
        yield
    except (SessionError, sqlite3.Error, OSError, *UNREADABLE) as error:
        view.state, view.problem, view.mend = "unreadable", str(error), mend_for(Path(view.directory))


def _look_inside(session: Session, view: SessionView) -> None:
    view.trainer_alive = any(session.owner_alive(ring) for ring in session.rings())
    try:
        with reading(session) as spool:
            view.runs = [run_of(spool, state) for state in states(session, spool)] if spool is not None else []
        view.in_ring_bytes = _unread(session)
        over = (session.dir / "finished").exists()
        view.state = "finished" if over else "starting" if view.trainer_alive else "leftover"
        for run in view.runs:
            # Its end may lie in a ring, which only an agent reads.
            if run.state == "RUNNING" and not view.trainer_alive:
                run.state = "UNKNOWN"
    except Busy:  # before the status files are read: without an agent they are what a dead one has left
        _look_at_live(session, view)
    _report_set_aside(session, view)


def _report_set_aside(session: Session, view: SessionView) -> None:
    """Reported until somebody has taken it away: nothing else shows that values are missing."""
    lost = set_aside(session)
    if lost and view.problem is None:
        view.problem = "; ".join(map(str, lost))
        view.mend = "when you have looked, and it is finished: tailrace clean --discard-undelivered"


def _holds_dead(session: Session) -> bool:
    """Whether there are dead letters in a session that an older tailrace has finished, and not counted them."""
    path = session.dir / "spool.db"
    if not path.exists():
        return False
    if path.with_name("spool.db-wal").exists():  # it was not closed: whoever looks inside reads that, too
        return True
    # Immutable: even to read, SQLite would make a log and its index beside the file.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        return bool(db.execute("SELECT 1 FROM dead LIMIT 1").fetchall())


@contextmanager
def reading(session: Session) -> Iterator[Spool | None]:
    """The session's spool, for a moment; None where there is none yet.

    Raises:
        Busy: An agent holds the session.
        SessionError: The spool cannot be read; it is left as it is.
    """
    # -1: without shared memory there is nothing in which anybody could hold it.
    lock = session.try_agent_lock() if session.has_shared else -1
    if lock is None:
        raise Busy(session)
    try:
        path = session.dir / "spool.db"
        spool = _looked_at(path, prove=not (session.dir / "finished").exists()) if path.exists() else None
        try:
            yield spool
        finally:
            if spool is not None:
                spool.close()
    finally:
        if lock >= 0:
            let_go(lock)


def states(session: Session, spool: Spool) -> list[RunState]:
    """The runs of a spool, as its run book keeps them."""
    return [restored(run, state, partial(stand_in, session.info)) for run, state in spool.runs().items()]


def find_session(settings: Settings, text: str) -> Session:
    """The session that a person means: its id, the beginning of it, or the letters after its last dash.

    Raises:
        Fail: There is none, or several fit; the message names each of them.
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


def _looked_at(path: Path, *, prove: bool) -> Spool:
    """A spool that is only looked at: one that cannot be read stays where it is."""
    try:
        return Spool(path, Database(path, prove=prove))
    except NotASpool:
        raise SessionError(
            f"{path} cannot be read; the next delivery sets it aside and takes back what can be read"
        ) from None


def _look_at_live(session: Session, view: SessionView) -> None:
    view.state = "live"
    agent = status.read(session.shared / "agent.status", AgentStatus)
    if agent is not None:
        view.agent_pid, view.metrics_url = agent.pid, agent.metrics_url
        view.problem = agent.problem
        silent = time.time() - agent.seen
        if silent > _SILENT_AFTER:
            view.problem = f"its agent (process {agent.pid}) has given no sign of life for {silent:.0f} s"
    view.runs = [_from_status(run, session) for run in statuses(session)]


def statuses(session: Session) -> list[RunStatus]:
    """The statuses that the agent of a session has published of its runs."""
    found = [status.read(path, RunStatus) for path in sorted(session.shared.glob("run-*.status"))]
    return [run for run in found if run is not None]


def _from_status(found: RunStatus, session: Session) -> RunView:
    return _view(
        found.ledger,
        run=run_hex(found.run),
        run_id=found.run_id,
        run_name=found.run_name,
        state=found.status,
        store=session.info.settings.tracking_uri,
        url=found.url,
        lag=found.lag,
        problem=found.refused or found.gone or found.problem,
        started=found.started or session.info.created,
    )


def run_of(spool: Spool, state: RunState) -> RunView:
    """A run of a spool."""
    oldest, ref = spool.waiting.oldest_ns(state.run), state.ref
    return _view(
        spool.counts.ledger(state.run),
        run=run_hex(state.run),
        run_id=ref.run_id if ref else state.spec.run_id,
        run_name=ref.run_name if ref else state.spec.run_name,
        state=state.status,
        store=state.spec.tracking_uri,
        url=ref.url if ref else None,
        lag=max(0.0, time.time() - oldest / 1e9) if oldest else 0.0,
        problem=_problem(state),
        started=state.spec.start_time / 1000,
    )


def _problem(state: RunState) -> str | None:
    if state.rebuilt and not state.finalized:
        text = "its record cannot be read; what waits for it will be delivered to the run that has its id, or a new one"
        return f"{text} ({state.problem})" if state.problem else text
    return None if state.finalized and not state.gone else state.refused or state.gone or state.problem


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
