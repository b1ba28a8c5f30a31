"""Delivery: everything that waits for one tracking URI reaches it exactly once, however often it has to be tried.

Invariants
----------
1. A block leaves the spool only after the sink has returned, which means a 2xx.
2. A failure that may pass (`Unavailable`) changes nothing but the time of the next try: one probe at a time.
3. A request that is refused is halved until the entries at fault stand alone; they become dead letters, their
   neighbours arrive. At most 2·log2(n) extra requests for one bad entry. A store that refuses everything it is offered
   is taken to be out of order, and nothing is buried.
4. A store that is too slow for a full request, or takes none of that size, gets smaller ones, until it is not.
5. A run is created once: an attempt is on record before it is made, and once one is on record, the run is looked for
   before it is made again.
6. Why a run will be KILLED is reported before its backlog is sent, and its end after it: see `run_ends`.
7. What has a name that MLflow refuses goes under a clean one: see `run_names`.
8. A run has one request under way at most, so that its values keep their order. Several runs are served at a time where
   the store takes that (`Limits.at_once`) and works.

`step(now)` does one piece of work for each run and returns when it wants to be called again; a thread is a thin shell
around it, and may have others beside it. `run_requests` makes the requests that carry blocks, `pace` says how many.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from tailrace_agent.delivery.claims import Claims
from tailrace_agent.delivery.pace import Pace, Turn
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_ends import RunEnds
from tailrace_agent.delivery.run_jobs import clocks_differ, goes_on, not_there
from tailrace_agent.delivery.run_names import NamesOfRuns
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_requests import RunRequests
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.errors import Refused, RunGone, StoreRefused, Unavailable
from tailrace_agent.ipc.notices import Notice, Topic
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.tags import RUN_TAG
from tailrace_agent.log import Log
from tailrace_agent.mlflow.job_runs import is_of_job
from tailrace_agent.mlflow.stored_names import fitting_tags
from tailrace_agent.retry import IDLE
from tailrace_agent.sinks.base import RunRef, Sink
from tailrace_agent.spool.store import Spool

__all__ = ["Delivery"]

_SOON = 0.05
_LOOK_EVERY = 2.0
"""Seconds between two looks for a run that somebody else creates."""
_LEAST_METRICS = 25
"""What a request has at least, however slow the store is."""
_WARN_AFTER = 3
"""Failed tries before the user hears of it: a server may restart unnoticed."""
_NOT_OUR_TURN = 0.1
"""Seconds after which a thread looks whether others may ask the store beside one."""
_DESCRIBED = 0.1
"""Seconds for which a new run waits for the tags that describe it, to be created with them: another request less."""


class Delivery:
    """Delivers the metrics, params, tags and states of all runs that go to one tracking URI.

    Args:
        tracking_uri: Without a password; None for MLflow's default.
        spool: Where the blocks wait.
        book: The runs.
        open_sink: Opens the sink; may take seconds.
        flush_interval: Seconds that a metric may wait for company.
        retry_max_delay: Longest pause between tries in seconds.
        log: Where operators read.
        monotonic: The clock of all deadlines.

    Attributes:
        sink: Once it is open.
        refused: Why the store cannot be used at all.
        opened: How often a run was created or found, by and large: it changes with each.

    Thread safety: as many threads call `step` as `threads` says.
    """

    def __init__(
        self,
        tracking_uri: str | None,
        spool: Spool,
        book: RunBook,
        open_sink: Callable[[], Sink],
        *,
        flush_interval: float,
        retry_max_delay: float,
        log: Log,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.sink: Sink | None = None
        self.refused: str | None = None
        self.opened = 0
        self._spool, self._book, self._open_sink = spool, book, open_sink
        self._flush_interval, self._log, self._monotonic = flush_interval, log, monotonic
        self._pace = Pace(retry_max_delay, _LEAST_METRICS, self._recovered)
        self._ends = RunEnds(spool, book, log)
        self._names = NamesOfRuns(spool, book, log)
        self._requests = RunRequests(spool, book, self._ends, self._names, self._pace, log)
        self._since: dict[int, float] = {}
        self._first: dict[int, float] = {}
        self._lock = threading.Lock()  # around the one below
        self._inside = 0  # threads in `step`
        self._claims = Claims()

    @property
    def probing(self) -> bool:
        """Whether the store was away at the last try, so that the next request is this delivery's probe."""
        return self._pace.failures > 0

    @property
    def threads(self) -> int:
        """How many threads have something to do."""
        if self.sink is None or self.sink.limits.at_once == 1:
            return 1
        return max(1, min(self.sink.limits.at_once, len(self._book.unfinished(self.tracking_uri))))

    @property
    def _has_probe(self) -> bool:
        """Whether anything but artifacts waits, with which to find out whether the store is there again."""
        waiting, runs = self._spool.waiting, self._book.unfinished(self.tracking_uri)
        return any({*waiting.backlog(state.run)} - {"artifact"} for state in runs)

    def step(self, now: float) -> float:
        """One piece of work for each run; when to be called again (monotonic seconds)."""
        if now < self._pace.ready_at:
            return self._pace.ready_at
        if self.refused:
            return now + IDLE
        if not self._enter():
            return now + _NOT_OUR_TURN
        try:
            return self._serve_all(now)
        finally:
            with self._lock:
                self._inside -= 1

    def _enter(self) -> bool:
        """Whether this thread may ask the store now, perhaps beside others."""
        with self._lock:
            may = self._inside < (1 if self.sink is None or self._pace.by_one else self.sink.limits.at_once)
            self._inside += may
            return may

    @property
    def _too_many(self) -> bool:
        """Whether threads are inside beside another, and should not be any more."""
        return self._inside > 1 and self._pace.by_one

    def _serve_all(self, now: float) -> float:
        turn = self._pace.turn()
        try:
            if self.sink is None:
                self.sink = self._open_sink()
                self._log.info("store opened", uri=self.tracking_uri)
            deadline = now + IDLE
            for state in self._book.unfinished(self.tracking_uri):
                if self._too_many or self._monotonic() < self._pace.ready_at:  # what another one has found
                    return now + _NOT_OUR_TURN
                with self._claims.serving(state.run, partial(_unfinished, state)) as ours:
                    if ours:
                        turn = self._pace.turn()
                        deadline = min(deadline, self._serve(self.sink, state, now, turn))
            if self.probing and not self._has_probe:
                self._pace.rest()  # uploads may probe the store
            return deadline
        except Unavailable as error:
            return self._wait(error, turn)
        except StoreRefused as error:
            self._refuse(str(error))
            return now + IDLE
        except Exception as error:
            # The worker logs it, and calls this again after a pause.
            self._book.trouble(self.tracking_uri, f"unexpected: {error!r}")
            raise

    # -- one run -----------------------------------------------------------------------------------------------------

    def _serve(self, sink: Sink, state: RunState, now: float, turn: Turn) -> float:
        """What this run wants next; `now` when it wants more at once."""
        try:
            if state.gone:
                return self._bury(state, state.gone)
            if state.ref is None and not self._open_run(sink, state, now, turn):
                return now + (_SOON if state.spec.owned else _LOOK_EVERY)
            due = self._send_or_close(sink, state, now, turn)
            # Not at the beginning: a run that its program has just created takes no request before its first values.
            if (text := clocks_differ(sink.clock_ahead())) is not None:
                self._book.notice(state.run, Notice(text, Topic("clocks", everywhere=True)))
            return due
        except RunGone as error:
            self._book.advance(state.run, Event.LOST, gone=str(error))
            self._book.notice(state.run, f"MLflow will not take anything more for this run: {error}")
            return now

    def _open_run(self, sink: Sink, state: RunState, now: float, turn: Turn) -> bool:
        """Creates the run, or finds the one that an earlier attempt has created."""
        if state.rebuilt and state.end is None:  # its program may still send its record
            return False
        spec = state.spec
        if not spec.owned and spec.run_id is None:
            return self._find_run(sink, state, turn)
        described_by = self._first.setdefault(state.run, now) + _DESCRIBED
        if spec.facts is not None and state.description is None and now < described_by:
            return False
        parent_run_id = spec.parent_run_id
        if spec.parent is not None:
            parent = self._book.get(spec.parent)
            if parent is not None and parent.ref is None and not parent.gone:
                return False  # the parent comes first
            parent_run_id = parent.ref.run_id if parent and parent.ref else parent_run_id
        again, first = state.attempts > 0 or spec.job is not None, not state.attempts
        self._book.update(state.run, attempts=state.attempts + 1)
        self._spool.sync()  # or a power cut would have it created twice
        ref = self._created(sink, state, parent_run_id, again=again)
        turn.worked()
        if state.spec is not spec:  # its job was started anew meanwhile: MLflow is to know of that attempt, too
            self._book.update(state.run, ref=None)
            return False
        self._first.pop(state.run, None)
        self.opened += 1
        self._log.info("run opened", run_id=ref.run_id, attempts=state.attempts)
        if ref.running and first and spec.job is not None and not spec.job.own:
            self._book.notice(state.run, goes_on(spec.job))
        if ref.artifacts:
            self._book.notice(
                state.run,
                f"MLflow's server wants the artifacts in {ref.artifacts} on this machine, and there they go; if it "
                "runs on another one, start it with --serve-artifacts",
            )
        return True

    def _created(self, sink: Sink, state: RunState, parent_run_id: str | None, *, again: bool) -> RunRef:
        """Creates the run with the tags that describe it, or without them where they are refused."""
        description = state.description
        if description is not None and description.tags:
            try:
                ref = self._opened(sink, state, parent_run_id, description.tags, again=again)
            except Refused:
                pass  # by themselves they are refused one by one, with the reason
            else:
                # One that is found has the tags of the attempt that has created it, whichever these were.
                tagged = description.tagged or not again
                self._book.update(state.run, ref=ref, description=msgspec.structs.replace(description, tagged=tagged))
                return ref
        try:
            ref = self._opened(sink, state, parent_run_id, {}, again=again)
        except Refused as error:
            raise RunGone(f"the run could not be created: {error}") from error
        self._book.update(state.run, ref=ref)
        return ref

    @staticmethod
    def _opened(
        sink: Sink, state: RunState, parent_run_id: str | None, more: Mapping[str, str], *, again: bool
    ) -> RunRef:
        tags = fitting_tags({**more, **state.spec.tags}, sink.check)
        return sink.open_run(msgspec.structs.replace(state.spec, tags=tags), parent_run_id, find_first=again)

    def _find_run(self, sink: Sink, state: RunState, turn: Turn) -> bool:
        """Finds a run that another agent creates: it may not have come to that yet."""
        mark = run_hex(state.run)
        # By its tag: `find_runs` also finds runs that have this text for a name.
        spec = state.spec
        refs = [
            found.ref
            for found in sink.find_runs(mark)
            if found.tags.get(RUN_TAG) == mark and is_of_job(spec, found.status, found.end_time)
        ]
        turn.worked()
        # Of a job, an agent that was here before this one may have stored what fell.
        anew = bool(refs) and spec.job is not None and spec.job.several_nodes
        self._book.update(state.run, attempts=state.attempts + 1, ref=refs[0] if refs else None, anew=anew)
        # The stand-in for its record is nobody's: where there is no such run, nobody else is going to create it.
        if not refs and state.rebuilt:
            self._book.update(state.run, spec=msgspec.structs.replace(state.spec, owned=True))  # so it is to be created
            return False
        if not refs and state.attempts == _WARN_AFTER:
            self._book.notice(state.run, not_there(mark, spec.job))
        return bool(refs)

    def _send_or_close(self, sink: Sink, state: RunState, now: float, turn: Turn) -> float:
        self._ends.names.claim(sink, state)
        if state.anew:
            self._ends.falls.forget(sink, state)
            self._book.update(state.run, anew=False)
        self._ends.explain(sink, state)
        closing = math.inf
        if state.end is not None and not state.closed:
            closing = self._end(sink, state, now, turn)
            if closing <= now or self._ends.reading(state, now):
                return closing
        run, backlog = state.run, self._spool.waiting.backlog(state.run)
        if backlog.get("param") or backlog.get("tag"):
            self._requests.send_texts(sink, state, turn)
            return now
        if backlog.get("metric"):
            since = self._since.setdefault(run, now)
            due = since + self._flush_interval
            if backlog["metric"] < sink.limits.metrics and now < due and not self._book.urgent(run):
                return due
            self._requests.send_metrics(sink, state, turn)
            self._since.pop(run, None)
            return now
        if not state.closed or backlog or not (state.described and state.printed_out):
            return min(closing, now + IDLE)
        if self._book.waiters.unset_barriers:  # the rings are being read to their end: there may be more
            return now + _SOON
        if self._ends.finish(sink, state):
            self._forget(run)
        return now

    def _end(self, sink: Sink, state: RunState, now: float, turn: Turn) -> float:
        """Brings MLflow nearer to the end of a run: `now` where that could be done, or when to check again."""
        closing = self._ends.due(state, now)
        if closing <= now:
            self._ends.close(sink, state)
            turn.worked()
        elif not self._ends.reading(state, now) and self._requests.send_last(sink, state, turn):
            self._since.pop(state.run, None)
            return now
        return closing

    # -- when it does not work ---------------------------------------------------------------------------------------

    def _recovered(self, failures: int) -> None:
        self._log.info("store works again", uri=self.tracking_uri, failures=failures)
        self._book.trouble(self.tracking_uri, None)

    def _wait(self, error: Unavailable, turn: Turn) -> float:
        ready_at = turn.failed(self._monotonic(), error.retry_after)
        failures, pause = self._pace.failures, ready_at - self._monotonic()
        self._log.warning("store unavailable", uri=self.tracking_uri, reason=str(error), failures=failures, pause=pause)
        self._book.trouble(self.tracking_uri, str(error), time.time() + pause, error.lacks)
        if failures == _WARN_AFTER:
            text = f"MLflow cannot be reached ({error}). Nothing is lost: tailrace keeps trying."
            for state in self._book.unfinished(self.tracking_uri):
                self._book.notice(state.run, Notice(text, Topic(everywhere=True, asks_login=error.lacks == "login")))
        return ready_at

    def _refuse(self, reason: str) -> None:
        self.refused = reason
        self._log.error("store refused", uri=self.tracking_uri, reason=reason)
        for state in self._book.unfinished(self.tracking_uri):
            self._book.update(state.run, refused=reason)
            self._book.notice(
                state.run, f"{reason.rstrip('.')}. The run is kept on this machine: `tailrace sync` delivers it later."
            )

    def _bury(self, state: RunState, reason: str) -> float:
        if buried := self._spool.letters.bury(state.run, reason):
            self._log.error("run gone", run=state.run, buried=buried, reason=reason)
            self._book.touch(state.run)
        if state.end is not None:
            self._book.advance(state.run, Event.SETTLED)
            if self._spool.waiting.backlog(state.run):  # it came meanwhile
                self._book.advance(state.run, Event.CAME)
                return self._monotonic()
        self._forget(state.run)
        return self._monotonic() + 1.0  # its program may still log: that is buried, too

    def _forget(self, run: int) -> None:
        self._ends.forget(run)
        self._names.forget(run)
        self._requests.forget(run)


def _unfinished(state: RunState, others: int) -> bool:
    """Whether no other thread has just finished the run."""
    del others
    return not state.finalized
