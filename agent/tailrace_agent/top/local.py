"""The runs of this machine, straight from their sessions: status files and curves in shared memory, no server.

What does not change is not read again: a session is opened once, a file when its time has changed. Sessions without an
agent are looked at by whoever knows how (`others`), once each until an agent holds them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from tailrace_agent.errors import SessionError
from tailrace_agent.ipc import curve_files, status
from tailrace_agent.ipc.console_files import console_file
from tailrace_agent.ipc.curves import Drawn
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.session import Session, sessions_root
from tailrace_agent.ipc.status import RunStatus
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.store_keys import default_uri
from tailrace_agent.settings.uris import resolve_uri
from tailrace_agent.top.courses import Course
from tailrace_agent.top.rows import RunRow

__all__ = ["LocalRuns", "store_of"]

_LOOK_AROUND: Final = 1.0
"""Seconds between two looks at which sessions there are, and which of them have an agent."""
_ASK_EVERY: Final = 2.0
_RATE_OVER: Final = 10.0
_OTHERS: Final = 10
"""Sessions without an agent, the newest, whose runs are in the list, too."""


class _Live:
    """A session that an agent holds."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rows: dict[Path, tuple[int, RunRow, int]] = {}
        self.asked_at = -1e9


class LocalRuns:
    """Looks at all sessions of a state directory.

    Args:
        settings: Where that is.
        others: The runs of a session without an agent.

    Not thread-safe.
    """

    def __init__(self, settings: Settings, others: Callable[[Session], list[RunRow]]) -> None:
        self._root, self._others = sessions_root(settings), others
        self._sessions: dict[str, Session | None] = {}
        self._live: dict[str, _Live] = {}
        self._ended: dict[str, list[RunRow]] = {}
        self._around_at = -1e9
        self._steps: dict[str, deque[tuple[float, int]]] = {}
        self._curves: dict[str, tuple[int, dict[str, Course], int]] = {}

    def rows(self, now: float) -> list[RunRow]:
        """The runs, those that are live first, the newest of them first of all; `now` in monotonic seconds."""
        if now >= self._around_at:
            self._look_around()
            self._around_at = now + _LOOK_AROUND
        rows = [row for live in self._live.values() for row in self._read(live, now)]
        rows.sort(key=lambda row: -row.started)
        seen = {row.key for row in rows}
        ended = sorted((row for several in self._ended.values() for row in several), key=lambda row: -row.started)
        return [*rows, *(row for row in ended if row.key not in seen)]

    def courses(self, keys: Collection[str], now: float) -> dict[str, dict[str, Course]]:
        """The courses of the metrics of some runs, as far as an agent has published them; it is asked for them here."""
        found = {}
        for key in keys:
            session_id, _, run = key.partition("/")
            live = self._live.get(session_id)
            if live is not None:
                if now >= live.asked_at + _ASK_EVERY:
                    self._ask(live)
                    live.asked_at = now
                self._read_curves(live.session, key, int(run, 16))
            if key in self._curves:
                found[key] = self._curves[key][1]
        return found

    def left_out(self, key: str) -> int:
        """Metrics of a run of which no course is kept."""
        return self._curves[key][2] if key in self._curves else 0

    def changed(self, keys: Iterable[str]) -> bool:
        """Whether there is something new of the curves of these runs. Some microseconds."""
        for key in keys:
            session_id, _, run = key.partition("/")
            live = self._live.get(session_id)
            if live is None:
                continue
            at = _changed_at(curve_files.curve_file(live.session.shared, int(run, 16)))
            if at is not None and at != self._curves.get(key, (None,))[0]:
                return True
        return False

    def _look_around(self) -> None:
        try:
            names = sorted(os.listdir(self._root), reverse=True)  # noqa: PTH208 - thousands
        except OSError:
            names = []
        for gone in self._sessions.keys() - set(names):
            del self._sessions[gone]
            self._live.pop(gone, None)
            self._ended.pop(gone, None)
        others = 0
        for name in names:
            session = self._open(name)
            if session is None or session.elsewhere:
                continue
            if session.agent_alive():
                self._live.setdefault(name, _Live(session))
                self._ended.pop(name, None)
                continue
            if self._live.pop(name, None) is not None:
                self._ended.pop(name, None)
            others += 1
            if name not in self._ended and others <= _OTHERS:
                self._ended[name] = self._others(session)

    def _open(self, name: str) -> Session | None:
        if self._sessions.get(name) is None:
            try:
                self._sessions[name] = Session.open(self._root / name)
            except SessionError:  # just being made, perhaps
                self._sessions[name] = None
        return self._sessions[name]

    def _read(self, live: _Live, now: float) -> Iterable[RunRow]:
        shared = live.session.shared
        try:
            with os.scandir(shared) as entries:
                paths = [Path(entry.path) for entry in entries if entry.name.endswith(".status")]
        except OSError:
            return [row for _, row, _ in live.rows.values()]
        for path in paths:
            if not path.name.startswith("run-"):
                continue
            at = _changed_at(path)
            known = live.rows.get(path)
            if at is None or (known is not None and known[0] == at):
                continue
            found = status.read(path, RunStatus)
            if found is not None:
                row = _row(live.session, found)
                live.rows[path] = at, row, found.step or 0
        for _, row, _ in live.rows.values():
            row.rate = self._rate(row, now)
        return [row for _, row, _ in live.rows.values()]

    def _rate(self, row: RunRow, now: float) -> float | None:
        if row.step is None:
            return None
        steps = self._steps.setdefault(row.key, deque())
        if not steps or now - steps[-1][0] > 0.4:
            steps.append((now, row.step))
        while len(steps) > 2 and now - steps[0][0] > _RATE_OVER:
            steps.popleft()
        (since, first), (until, last) = steps[0], steps[-1]
        return (last - first) / (until - since) if until > since else None

    def _ask(self, live: _Live) -> None:
        try:
            if live.session.has_shared:
                curve_files.ask(live.session.shared)
        except OSError:  # it ends just now, or shared memory is full
            pass

    def _read_curves(self, session: Session, key: str, run: int) -> None:
        at = _changed_at(curve_files.curve_file(session.shared, run))
        if at is None or (key in self._curves and self._curves[key][0] == at):
            return
        found = curve_files.read(session.shared, run)
        if found is not None:
            before = self._curves[key][1] if key in self._curves else {}
            courses = {name: _course(before.get(name), drawn) for name, drawn in found.curves.items()}
            self._curves[key] = at, courses, found.left_out


def _course(before: Course | None, drawn: Drawn) -> Course:
    """The course as it was, if it is the same: what was made of it stands then, too."""
    return before if before is not None and before.drawn == drawn else Course(drawn)


def _changed_at(path: Path) -> int | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_mtime_ns ^ found.st_ino << 1  # a new file has a new number, whatever the clock's grain is


def _row(session: Session, found: RunStatus) -> RunRow:
    total = found.ledger.total
    return RunRow(
        key=f"{session.id}/{run_hex(found.run)}",
        name=found.run_name or run_hex(found.run)[:8],
        state=found.status,
        live=found.status == "RUNNING",
        started=found.started or session.info.created,
        step=found.step,
        pending=total.pending,
        accepted=total.accepted,
        delivered=total.delivered,
        dead=total.dead,
        dropped=total.dropped,
        lag=found.lag,
        problem=found.refused or found.gone or found.problem,
        notices=found.notices,
        url=found.url,
        program=session.info.program,
        run_id=found.run_id,
        store=store_of(session, session.info.settings.tracking_uri),
        console=console_file(session.dir, found.run),
    )


def store_of(session: Session, uri: str | None) -> str:
    """Where a run of a session goes, absolute, and MLflow's default spelled out; without a password."""
    return resolve_uri(uri, session.info.cwd) if uri else default_uri(session.info.cwd)
