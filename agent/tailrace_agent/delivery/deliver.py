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

`step(now)` does one piece of work and returns when it wants to be called again; a thread is a thin shell around it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from tailrace_agent.delivery.batches import (
    Answered,
    Batch,
    Entry,
    Twins,
    as_logged,
    body_of,
    keys_of,
    metrics_batch,
    texts_batch,
)
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_ends import RunEnds
from tailrace_agent.delivery.run_names import NamesOfRuns
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.errors import Refused, RunGone, StoreRefused, Unavailable
from tailrace_agent.ipc.notices import Notice, Topic, refused
from tailrace_agent.ipc.records import Point, run_hex
from tailrace_agent.ipc.tags import LEDGER_TAG, RUN_TAG
from tailrace_agent.log import Log
from tailrace_agent.mlflow.stored_names import Names, fitting_tags
from tailrace_agent.retry import IDLE, Backoff, Portion
from tailrace_agent.sinks.base import Sink
from tailrace_agent.spool import extremes
from tailrace_agent.spool.blocks import Block, Outcome
from tailrace_agent.spool.store import Spool
from tailrace_agent.text.quoting import quoted

__all__ = ["Delivery"]

_SOON = 0.05
_LOOK_EVERY = 2.0
"""Seconds between two looks for a run that somebody else creates."""
_REFUSALS_WITHOUT_SUCCESS = 40
"""After so many refusals in a row, with nothing accepted in between, the store has to prove that it takes anything."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
_LEAST_METRICS = 25
"""What a request has at least, however slow the store is."""
_WARN_AFTER = 3
"""Failed tries before the user hears of it: a server may restart unnoticed."""


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

    Not thread-safe: one thread calls `step`.
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
        self._spool, self._book, self._open_sink = spool, book, open_sink
        self._flush_interval, self._log, self._monotonic = flush_interval, log, monotonic
        self._backoff = Backoff(cap=retry_max_delay)
        self._portion = Portion(_LEAST_METRICS)
        self._ends = RunEnds(spool, book, log)
        self._names = NamesOfRuns(spool, book, log)
        self._since: dict[int, float] = {}
        self._twins: dict[int, Twins] = {}
        self._answered: dict[int, Answered] = {}

    @property
    def probing(self) -> bool:
        """Whether the store was away at the last try, so that the next request is this delivery's probe."""
        return self._backoff.failures > 0

    @property
    def _has_probe(self) -> bool:
        """Whether anything but artifacts waits, with which to find out whether the store is there again."""
        waiting, runs = self._spool.waiting, self._book.unfinished(self.tracking_uri)
        return any({*waiting.backlog(state.run)} - {"artifact"} for state in runs)

    def step(self, now: float) -> float:
        """One piece of work; when to be called again (monotonic seconds)."""
        if now < self._backoff.ready_at:
            return self._backoff.ready_at
        if self.refused:
            return now + IDLE
        try:
            if self.sink is None:
                self.sink = self._open_sink()
                self._log.info("store opened", uri=self.tracking_uri)
            deadline = now + IDLE
            for state in self._book.unfinished(self.tracking_uri):
                deadline = min(deadline, self._serve(self.sink, state, now))
            if self.probing and not self._has_probe:
                self._backoff.worked()  # uploads may probe the store
            return deadline
        except Unavailable as error:
            return self._wait(error)
        except StoreRefused as error:
            self._refuse(str(error))
            return now + IDLE
        except Exception as error:
            # The worker logs it, and calls this again after a pause.
            self._book.trouble(self.tracking_uri, f"unexpected: {error!r}")
            raise

    # -- one run -----------------------------------------------------------------------------------------------------

    def _serve(self, sink: Sink, state: RunState, now: float) -> float:
        """What this run wants next; `now` when it wants more at once."""
        try:
            if state.gone:
                return self._bury(state, state.gone)
            if state.ref is None and not self._open_run(sink, state):
                return now + (_SOON if state.spec.owned else _LOOK_EVERY)
            return self._send_or_close(sink, state, now)
        except RunGone as error:
            self._book.advance(state.run, Event.LOST, gone=str(error))
            self._book.notice(state.run, f"MLflow will not take anything more for this run: {error}")
            return now

    def _open_run(self, sink: Sink, state: RunState) -> bool:
        """Creates the run, or finds the one that an earlier attempt has created."""
        if state.rebuilt and state.end is None:  # its program may still send its record
            return False
        spec = state.spec
        if not spec.owned and spec.run_id is None:
            return self._find_run(sink, state)
        parent_run_id = spec.parent_run_id
        if spec.parent is not None:
            parent = self._book.get(spec.parent)
            if parent is not None and parent.ref is None and not parent.gone:
                return False  # the parent comes first
            parent_run_id = parent.ref.run_id if parent and parent.ref else parent_run_id
        again = state.attempts > 0
        self._book.update(state.run, attempts=state.attempts + 1)
        self._spool.sync()  # or a power cut would have it created twice
        spec = msgspec.structs.replace(spec, tags=fitting_tags(spec.tags, sink.check))
        try:
            ref = sink.open_run(spec, parent_run_id, find_first=again)
        except Refused as error:
            raise RunGone(f"the run could not be created: {error}") from error
        self._worked()
        self._book.update(state.run, ref=ref)
        self._log.info("run opened", run_id=ref.run_id, attempts=state.attempts)
        if ref.artifacts:
            self._book.notice(
                state.run,
                f"MLflow's server wants the artifacts in {ref.artifacts} on this machine, and there they go; if it "
                "runs on another one, start it with --serve-artifacts",
            )
        return True

    def _find_run(self, sink: Sink, state: RunState) -> bool:
        """Finds a run that another agent creates: it may not have come to that yet."""
        mark = run_hex(state.run)
        # By its tag: `find_runs` also finds runs that have this text for a name.
        refs = [found.ref for found in sink.find_runs(mark) if found.tags.get(RUN_TAG) == mark]
        self._worked()
        self._book.update(state.run, attempts=state.attempts + 1, ref=refs[0] if refs else None)
        # The stand-in for its record is nobody's: where there is no such run, nobody else is going to create it.
        if not refs and state.rebuilt:
            self._book.update(state.run, spec=msgspec.structs.replace(state.spec, owned=True))  # so it is to be created
            return False
        if not refs and state.attempts == _WARN_AFTER:
            self._book.notice(
                state.run, f"run {mark} is not in MLflow yet; what was logged to it from here waits until it is"
            )
        return bool(refs)

    def _send_or_close(self, sink: Sink, state: RunState, now: float) -> float:
        self._ends.explain(sink, state)
        closing = math.inf
        if state.end is not None and not state.closed:
            closing = self._ends.due(state, now)
            if closing <= now:
                self._ends.close(sink, state)
                self._worked()
                return now
        run, backlog = state.run, self._spool.waiting.backlog(state.run)
        if backlog.get("param") or backlog.get("tag"):
            kind = "param" if backlog.get("param") else "tag"
            limit = sink.limits.params if kind == "param" else sink.limits.tags
            with self._spool.waiting.holding(run, kind, limit) as blocks:
                self._send_blocks(sink, state, blocks, texts_batch)
            return now
        if backlog.get("metric"):
            since = self._since.setdefault(run, now)
            due = since + self._flush_interval
            if backlog["metric"] < sink.limits.metrics and now < due and not self._book.urgent(run):
                return due
            self._send_metrics(sink, state)
            self._since.pop(run, None)
            return now
        if not state.closed or backlog or not state.described:
            return min(closing, now + IDLE)
        if self._book.waiters.unset_barriers:  # the rings are being read to their end: there may be more
            return now + _SOON
        if self._ends.finish(sink, state):
            self._forget(run)
        return now

    def _send_metrics(self, sink: Sink, state: RunState) -> None:
        """Sends the oldest blocks; fewer of them while the store is too slow for a full request."""
        self._ends.withdraw_note(sink, state)
        limit, twins = sink.limits.metrics, self._twins.setdefault(state.run, Twins())
        with self._spool.waiting.holding(state.run, "metric", self._portion.of(limit)) as blocks:
            self._send_blocks(sink, state, blocks, partial(metrics_batch, twins=twins, steps_before=state.steps_before))

    # -- one request -------------------------------------------------------------------------------------------------

    def _send_blocks(self, sink: Sink, state: RunState, blocks: Sequence[Block], make: Callable[..., Batch]) -> None:
        """Sends blocks, except those whose bytes were damaged on disk."""
        if not blocks:  # `shed` has just taken them
            return
        names = self._names.of(sink, state).of(blocks[0].kind)
        try:
            batch = make(blocks, names=names)
        except _UNREADABLE:
            self._drop_unreadable(blocks, make, names)
        else:
            self._send(sink, state, batch)

    def _drop_unreadable(self, blocks: Sequence[Block], make: Callable[..., Batch], names: Names) -> None:
        for block in blocks:
            try:
                make([block], names=names)
            except _UNREADABLE as error:
                self._spool.settle(
                    Outcome(block.run, block.kind, [block.id], 0, dropped=[("unreadable block", block.n)])
                )
                self._log.error("unreadable block dropped", kind=block.kind, n=block.n, reason=str(error))
                self._book.notice(block.run, f"{block.kind}s were lost: the spool was damaged on disk")

    def _send(self, sink: Sink, state: RunState, batch: Batch) -> None:
        """Sends a batch, isolates what is refused, and writes down what became of it."""
        assert state.ref is not None
        # Or a power cut would leave in MLflow what no ledger knows of.
        self._spool.sync(max(batch.blocks))
        self._names.send_fresh(sink, state)
        good, dead = self._precheck(sink, batch)
        answered = self._answered.get(batch.run)
        if batch.kind == "metric" and answered is not None:
            # A part of it was answered before a later one failed.
            good = list(answered.left(_points(good)))
        requests = self._send_bisecting(sink, state.ref.run_id, batch, good, dead)
        buried = {entry for entry, _ in dead}
        delivered = [entry for entry in batch.entries if entry not in buried] if dead else batch.entries
        found = extremes.of(_points(delivered))
        original = self._names.of(sink, state).original
        letters = [(entry, reason, original(entry[0])) for entry, reason in dead]
        steps_before = state.steps_before if letters else {}
        self._spool.settle(
            Outcome(
                run=batch.run,
                kind=batch.kind,
                blocks=batch.blocks,
                delivered=len(delivered) + batch.merged,
                merged=batch.merged,
                late=state.closed,
                requests=requests,
                keys=[(key, extreme.n) for key, extreme in found.items()],
                extremes=found,
                dead=[
                    (key, 1, body_of(batch.run, as_logged(entry, steps_before), key), reason)
                    for entry, reason, key in letters
                ],
            )
        )
        if batch.kind == "metric":
            # Not before it is settled: what is sent once more must not be taken for its own twin.
            self._twins[batch.run].sent(_points(delivered))
            if answered is not None:
                answered.settle(_points(batch.entries))
        self._book.touch(batch.run)
        for _, reason, key in letters:
            text = f"MLflow refused {batch.kind} {quoted(key)}: {reason}"
            self._book.notice(batch.run, Notice(text, Topic(refused(batch.kind, key))))

    def _precheck(self, sink: Sink, batch: Batch) -> tuple[list[Entry], list[tuple[Entry, str]]]:
        """Finds what MLflow's own rules for names still refuse, without a request."""
        reasons = {key: sink.check(batch.kind, key) for key, _ in keys_of(batch.entries)}
        if not any(reasons.values()):
            return list(batch.entries), []
        dead = [(entry, reason) for entry in batch.entries if (reason := reasons[entry[0]])]
        return [entry for entry in batch.entries if not reasons[entry[0]]], dead

    def _send_bisecting(
        self, sink: Sink, run_id: str, batch: Batch, entries: list[Entry], dead: list[tuple[Entry, str]]
    ) -> int:
        """Sends all entries that the store takes, appends the others to `dead`; how many requests were accepted."""
        parts = [entries] if entries else []
        taken: list[Entry] = []
        accepted = refused = 0
        while parts:
            part = parts.pop()
            most = self._portion.of(sink.limits.metrics) if batch.kind == "metric" else len(part)
            if len(part) > most:  # also what was cut before a smaller part was too much
                parts.append(part[most:])
                part = part[:most]
            try:
                self._send_part(sink, run_id, batch.kind, part)
                taken += part
                accepted += 1
                self._worked()
            except Unavailable:
                if batch.kind == "metric":
                    self._answered.setdefault(batch.run, Answered()).add(_points(taken))
                raise
            except Refused as error:
                refused += 1
                if not accepted and refused == _REFUSALS_WITHOUT_SUCCESS:
                    self._prove_at_fault(sink, run_id, batch.run, error)
                if len(part) == 1:
                    dead.append((part[0], str(error)))
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]  # the first half is sent first
        return accepted

    def _send_part(self, sink: Sink, run_id: str, kind: str, part: list[Entry]) -> None:
        """One request; if it carries metrics, its outcome decides how much the next may carry."""
        try:
            _log_batch(sink, run_id, kind, part)
        except (Unavailable, Refused) as error:
            too_much = error.too_slow if isinstance(error, Unavailable) else error.too_large
            if too_much and kind == "metric":
                self._portion.too_much(sink.limits.metrics)
            raise
        if kind == "metric":
            self._portion.worked(sink.limits.metrics)

    def _prove_at_fault(self, sink: Sink, run_id: str, run: int, error: Refused) -> None:
        """Makes sure that the store takes anything at all for this run, before more entries are buried."""
        ledger = msgspec.json.encode(self._spool.counts.ledger(run).summary()).decode()
        try:
            # Of all writes one that it gets anyway: a store that takes that refuses the entries for themselves.
            sink.log_batch(run_id, tags=[(LEDGER_TAG, ledger)])
        except Refused:
            raise Unavailable(f"the store refuses everything: {error}") from error

    # -- when it does not work ---------------------------------------------------------------------------------------

    def _worked(self) -> None:
        if self._backoff.failures:
            self._log.info("store works again", uri=self.tracking_uri, failures=self._backoff.failures)
            self._book.trouble(self.tracking_uri, None)
        self._backoff.worked()

    def _wait(self, error: Unavailable) -> float:
        ready_at = self._backoff.failed(self._monotonic(), error.retry_after)
        failures, pause = self._backoff.failures, ready_at - self._monotonic()
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
        self._twins.pop(run, None)
        self._answered.pop(run, None)


def _points(entries: Iterable[Entry]) -> list[Point]:
    return [entry for entry in entries if isinstance(entry, Point)]


def _log_batch(sink: Sink, run_id: str, kind: str, entries: Sequence[Entry]) -> None:
    if kind == "metric":
        sink.log_batch(run_id, metrics=_points(entries))
        return
    texts = [(entry[0], str(entry[1])) for entry in entries]
    if kind == "param":
        sink.log_batch(run_id, params=texts)
    else:
        sink.log_batch(run_id, tags=texts)
