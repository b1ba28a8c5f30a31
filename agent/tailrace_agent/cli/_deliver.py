"""This process as the agent of one session, in the foreground, for as long as there is something that it can do."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import msgspec

from tailrace_agent.cli._app import Code
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.hosts.log_file import open_log
from tailrace_agent.hosts.process import open_sink
from tailrace_agent.hosts.workers import Host
from tailrace_agent.ipc.finished import mark_finished, set_aside
from tailrace_agent.ipc.notices import paired
from tailrace_agent.ipc.session import Session
from tailrace_agent.ledger import Counts
from tailrace_agent.pipeline.pipeline import Pipeline

__all__ = ["Foreground", "Patience", "Result", "Tick"]

_LONGEST_PAUSE: Final = 5.0  # seconds between tries: somebody sits before it
_TICK: Final = 0.1  # seconds
_STALLED: Final = 600.0  # seconds without progress though the store answers: large artifacts take their time
_OUTCOMES: Final = {"delivered": Code.FINE, "left": Code.WRONG, "unreachable": Code.STORE, "refused": Code.STORE}


class Patience(NamedTuple):
    """When to give up.

    Attributes:
        timeout: Seconds in all, or None.
        without_progress: Seconds for which a store may be away.
    """

    timeout: float | None = None
    without_progress: float = 60.0


class Tick(NamedTuple):
    """How far it is: entries settled since the beginning, those and what waits, what is in the way, what goes on."""

    done: int
    total: int
    problem: str | None = None
    note: str | None = None


class Result(msgspec.Struct, kw_only=True):
    """How it ended for one session.

    Attributes:
        session: Its id.
        outcome: `delivered`; `left` (given up with something pending); `unreachable` or `refused` (the store);
            `skipped` (it could not be begun).
        delivered: Entries delivered, by this process or by the agent that it watched.
        pending: Entries that still wait.
        dead: Dead letters.
        dropped: Entries given up meanwhile: values that a GPU had not computed, say.
        reasons: Why not all is delivered.
        code: The exit code for it.
    """

    session: str
    outcome: Literal["delivered", "left", "unreachable", "refused", "skipped"]
    delivered: int = 0
    pending: int = 0
    dead: int = 0
    dropped: int = 0
    reasons: list[str] = []
    code: Code = Code.FINE


class Foreground:
    """Delivers one session.

    Args:
        session: The session.
        lock: Descriptor that holds its agent lock; closed by `run`.
        credentials: `user:password` by masked URI.

    Raises:
        OSError, sqlite3.Error: The session's directory cannot be used. The lock is released.
    """

    def __init__(self, session: Session, lock: int, credentials: dict[str, str]) -> None:
        self._session, self._lock = session, lock
        settings = session.info.settings
        patient = msgspec.structs.replace(settings, retry_max_delay=min(settings.retry_max_delay, _LONGEST_PAUSE))
        session.info = msgspec.structs.replace(session.info, settings=patient)  # here alone, never saved
        try:
            log = open_log(session.dir / "agent.log", settings.log_level, pid=os.getpid(), host="sync")
            self._pipeline = Pipeline.open(session, open_sink, log, host="sync", credentials=credentials)
        except BaseException:
            let_go(lock)
            raise
        self._host = Host(self._pipeline, log)
        self._before, self._counts = self._settled()[0], self._total()

    def run(self, tick: Callable[[Tick], None], patience: Patience) -> Result:
        """Delivers until all is done or patience ends, and tidies up, whatever interrupts it."""
        self._host.start()
        try:
            outcome = self._wait(tick, patience)
        finally:
            self._leave()
        return self._result(outcome)

    def _wait(self, tick: Callable[[Tick], None], patience: Patience) -> str:
        began = moved = time.monotonic()
        last: Tick | None = None
        while True:
            now, at = time.monotonic(), self._tick()
            if last is None or at[:2] != last[:2]:
                moved = now
            last = at
            tick(at)
            if self._pipeline.deserted and self._pipeline.settled:
                return "delivered"
            if self._pipeline.deserted and self._pipeline.stuck:  # every store refused: waiting mends nothing
                return "refused"
            away = at.problem is not None
            if now - moved > (patience.without_progress if away else _STALLED):
                return "unreachable" if away else "left"
            if patience.timeout is not None and now - began > patience.timeout:
                return "unreachable" if away else "left"
            time.sleep(_TICK)

    def _tick(self) -> Tick:
        settled, problem = self._settled()
        done = max(0, settled - self._before)
        opening = any(c.delivery.sink is None and not c.delivery.refused for c in self._pipeline.by_uri.values())
        return Tick(done, done + self._pipeline.spool.waiting.points, problem, "opening the store" if opening else None)

    def _settled(self) -> tuple[int, str | None]:
        settled, problem = 0, None
        for state in self._pipeline.book.all():
            total = self._pipeline.spool.counts.ledger(state.run).total
            settled += total.accepted - total.pending
            problem = problem or (None if state.finalized else state.problem)
        return settled, problem

    def _total(self) -> Counts:
        total = Counts()
        for state in self._pipeline.book.all():
            total.add(self._pipeline.spool.counts.ledger(state.run).total)
        return total

    def _leave(self) -> None:
        pipeline, session = self._pipeline, self._session
        try:
            # Only when its workers have ended: one that hangs in a request may be draining, too.
            if self._host.stop(2.0):
                pipeline.drain(time.monotonic())
            self._left = pipeline.book.all_unfinished()
            self._ledgers = {state.run: pipeline.spool.counts.ledger(state.run) for state in pipeline.book.all()}
            self._counts, before = self._total(), self._counts
            self._delivered = self._counts.delivered - before.delivered
            self._dropped = sum(self._counts.dropped.values()) - sum(before.dropped.values())
            # In this order: a program that joins until then is seen, and one that joins later begins another session.
            settled = pipeline.settled and session.close_if_deserted()
            dead = pipeline.spool.letters.number  # while the spool is open
            pipeline.close()
            if settled and not self._ledgers and not set_aside(session):  # it never had a run
                session.remove()
            elif settled:
                mark_finished(session, runs=len(self._ledgers), dead=dead, at=time.time())
                session.remove_shared()
        finally:
            with contextlib.suppress(OSError):
                let_go(self._lock)  # last: whoever gets the lock then finds the session as it stays

    def _result(self, outcome: str) -> Result:
        if outcome == "delivered" and self._left:
            outcome = "left"  # something came at the last moment
        return Result(
            session=self._session.id,
            outcome=outcome,  # type: ignore[arg-type]
            delivered=self._delivered,
            dropped=self._dropped,
            pending=sum(ledger.pending for ledger in self._ledgers.values()),
            dead=sum(ledger.dead for ledger in self._ledgers.values()),
            reasons=sorted({reason for state in self._left if (reason := _reason(state, outcome))}),
            code=_OUTCOMES[outcome],
        )


def _reason(state: RunState, outcome: str) -> str | None:
    reason, login = state.refused or state.problem, state.lacks == "login" and not state.refused
    if not reason and outcome == "left" and state.notices:
        last = paired(state.notices, state.topics)[-1]
        reason, login = last.text, last.topic.asks_login
    if reason and login:
        reason += " (a password is never kept on disk: give it with --tracking-uri or MLflow's variables)"
    return reason
