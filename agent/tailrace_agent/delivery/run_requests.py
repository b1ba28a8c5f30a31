"""The requests that carry what waits of one run: batches of its blocks, and what became of them.

A batch holds one kind, and goes as one request, or in parts where the store refuses it. Params and tags that wait
together go in a single request, if they fit, and so does all that is left of a run that has ended, with the tags of its
end; where that is refused, kind by kind.

Thread safety: several threads, each with a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

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
from tailrace_agent.delivery.goals import kept
from tailrace_agent.delivery.pace import Pace, Turn
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_ends import RunEnds
from tailrace_agent.delivery.run_names import NamesOfRuns
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.notices import Notice, Topic, refused
from tailrace_agent.ipc.records import Kind, Point
from tailrace_agent.log import Log
from tailrace_agent.mlflow.stored_names import Names
from tailrace_agent.sinks.base import Sink
from tailrace_agent.spool import extremes
from tailrace_agent.spool.blocks import Block, Outcome
from tailrace_agent.spool.store import Spool
from tailrace_agent.text.quoting import quoted

__all__ = ["RunRequests"]

_REFUSALS_WITHOUT_SUCCESS: Final = 40
"""After so many refusals in a row, with nothing accepted in between, the store has to prove that it takes anything."""
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)
_LAST_TAGS: Final = 2
"""Tags of the end of a run: its ledger, and the note of its extremes."""
_KINDS: Final[tuple[Kind, ...]] = ("param", "tag", "metric")


class RunRequests:
    """The requests for all runs that go to one tracking URI.

    Args:
        spool: Where the blocks wait.
        book: The runs.
        ends: Knows the tags of a run's end.
        names: The names of runs in MLflow.
        pace: How much a request may carry.
        log: Where operators read.
    """

    def __init__(
        self,
        spool: Spool,
        book: RunBook,
        ends: RunEnds,
        names: NamesOfRuns,
        pace: Pace,
        log: Log,
    ) -> None:
        self._spool, self._book, self._ends, self._names = spool, book, ends, names
        self._pace, self._log = pace, log
        self._twins: dict[int, Twins] = {}
        self._answered: dict[int, Answered] = {}
        self._apart: set[int] = set()  # runs of which something was refused in company

    def send_metrics(self, sink: Sink, state: RunState, turn: Turn) -> None:
        """Sends the oldest blocks; fewer of them while the store is too slow for a full request."""
        self._ends.withdraw_note(sink, state)
        limit = sink.metrics_at_once(self._spool.waiting.backlog(state.run).get("metric", 0))
        twins = self._twins.setdefault(state.run, Twins())
        with self._spool.waiting.holding(state.run, "metric", self._pace.portion(limit)) as blocks:
            make = partial(metrics_batch, twins=twins, steps_before=state.steps_before, kept=kept(state))
            self._send_blocks(sink, state, blocks, make, turn)

    def send_texts(self, sink: Sink, state: RunState, turn: Turn) -> None:
        """Sends the params and tags that wait; the oldest ones of a kind, where that is no single request."""
        backlog = self._spool.waiting.backlog(state.run)
        kind: Kind = "param" if backlog.get("param") else "tag"
        if backlog.get("param") and backlog.get("tag") and self._send_together(sink, state, turn, ("param", "tag")):
            return
        limit = sink.limits.params if kind == "param" else sink.limits.tags
        with self._spool.waiting.holding(state.run, kind, limit) as blocks:
            self._send_blocks(sink, state, blocks, texts_batch, turn)

    def forget(self, run: int) -> None:
        """Nothing of the run waits any more."""
        self._twins.pop(run, None)
        self._answered.pop(run, None)
        self._apart.discard(run)

    # -- several kinds in one request ---------------------------------------------------------------------------------

    def send_last(self, sink: Sink, state: RunState, turn: Turn) -> bool:
        """All that waits of a run that has ended, with the tags of its end; False where that is no single request."""
        # An artifact would change the ledger once more.
        artifacts = "artifact" in self._spool.waiting.backlog(state.run)
        return not artifacts and self._send_together(sink, state, turn, _KINDS, last=True)

    def _send_together(
        self, sink: Sink, state: RunState, turn: Turn, kinds: Sequence[Kind], *, last: bool = False
    ) -> bool:
        """All that waits of these kinds; False where that is no single request."""
        run = state.run
        if run in self._apart or run in self._answered or not self._fits(sink, run, kinds):
            return False
        with ExitStack() as held:
            batches = self._all_of(sink, state, kinds, held)
            if not batches:
                return False
            assert state.ref is not None
            self._spool.sync(max(block for batch in batches for block in batch.blocks))
            self._names.send_fresh(sink, state)
            entries = {batch.kind: batch.entries for batch in batches}
            points = _points(entries.get("metric", ()))
            if points:
                self._ends.withdraw_note(sink, state)
            outcomes = [_outcome(state, batch, batch.entries, int(batch is batches[0]), []) for batch in batches]
            ending = self._ends.last_tags(sink, state, outcomes) if last else []
            try:
                tags = _texts(entries.get("tag", ()))
                sink.log_batch(
                    state.ref.run_id, metrics=points, params=_texts(entries.get("param", ())), tags=[*tags, *ending]
                )
            except Refused as error:
                self._log.info("refused in company", run_id=state.ref.run_id, reason=str(error))
                self._apart.add(run)
                return False
            except Unavailable as error:
                if error.too_slow and points:
                    self._pace.carried(len(points), sink.limits.metrics, too_much=True)
                raise
            turn.worked()
            if points:
                self._pace.carried(len(points), sink.limits.metrics, too_much=False)
            self._spool.settle(*outcomes)
            self._ends.have_stored(run, ending)
            self._twins.setdefault(run, Twins()).sent(points)
            self._book.touch(run)
        return True

    def _fits(self, sink: Sink, run: int, kinds: Sequence[Kind]) -> bool:
        """Whether one request can take all that waits of some kinds, and is worth the try."""
        limits, waiting = sink.limits, self._spool.waiting.backlog(run)
        backlog = {kind: waiting[kind] for kind in kinds if kind in waiting}
        if not backlog or backlog.get("param", 0) > limits.params:
            return False
        most = self._pace.portion(limits.metrics) - _LAST_TAGS  # MLflow's bound for all kinds together
        return sum(backlog.values()) <= most and backlog.get("tag", 0) <= limits.tags - _LAST_TAGS

    def _all_of(self, sink: Sink, state: RunState, kinds: Sequence[Kind], held: ExitStack) -> list[Batch]:
        """A batch of each of these kinds that waits; none where a part of it is unreadable, or will be refused."""
        twins = self._twins.setdefault(state.run, Twins())
        make: dict[Kind, Callable[..., Batch]] = dict.fromkeys(_KINDS, texts_batch)
        make["metric"] = partial(metrics_batch, twins=twins, steps_before=state.steps_before, kept=kept(state))
        names, batches = self._names.of(sink, state), list[Batch]()
        for kind in kinds:
            waiting = self._spool.waiting.backlog(state.run).get(kind, 0)
            blocks = held.enter_context(self._spool.waiting.holding(state.run, kind, waiting)) if waiting else ()
            if not blocks:
                continue
            try:
                batch = make[kind](blocks, names=names.of(kind))
            except _UNREADABLE:
                return []
            # Params that contradict each other go in two requests, so that the second can be refused alone.
            if len(batch.blocks) < len(blocks) or self._precheck(sink, batch)[1]:
                return []
            batches.append(batch)
        return batches

    # -- one request -------------------------------------------------------------------------------------------------

    def _send_blocks(
        self, sink: Sink, state: RunState, blocks: Sequence[Block], make: Callable[..., Batch], turn: Turn
    ) -> None:
        """Sends blocks, except those whose bytes were damaged on disk."""
        if not blocks:  # `shed` has just taken them
            return
        names = self._names.of(sink, state).of(blocks[0].kind)
        try:
            batch = make(blocks, names=names)
        except _UNREADABLE:
            self._drop_unreadable(blocks, make, names)
        else:
            self._send(sink, state, batch, turn)

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

    def _send(self, sink: Sink, state: RunState, batch: Batch, turn: Turn) -> None:
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
        requests = self._send_bisecting(sink, state, batch, good, dead, turn)
        buried = {entry for entry, _ in dead}
        delivered = [entry for entry in batch.entries if entry not in buried] if dead else batch.entries
        original = self._names.of(sink, state).original
        letters = [(entry, reason, original(entry[0])) for entry, reason in dead]
        self._spool.settle(_outcome(state, batch, delivered, requests, letters))
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
        self, sink: Sink, state: RunState, batch: Batch, entries: list[Entry], dead: list[tuple[Entry, str]], turn: Turn
    ) -> int:
        """Sends all entries that the store takes, appends the others to `dead`; how many requests were accepted."""
        assert state.ref is not None
        parts = [entries] if entries else []
        taken: list[Entry] = []
        accepted = refused = 0
        while parts:
            part = parts.pop()
            most = self._pace.portion(sink.metrics_at_once(0)) if batch.kind == "metric" else len(part)
            if len(part) > most:  # also what was cut before a smaller part was too much
                parts.append(part[most:])
                part = part[:most]
            try:
                self._send_part(sink, state.ref.run_id, batch.kind, part)
                taken += part
                accepted += 1
                turn.worked()
            except Unavailable:
                if batch.kind == "metric":
                    self._answered.setdefault(batch.run, Answered()).add(_points(taken))
                raise
            except Refused as error:
                refused += 1
                if not accepted and refused == _REFUSALS_WITHOUT_SUCCESS:
                    self._prove_at_fault(sink, state, error)
                if len(part) == 1:
                    dead.append((part[0], str(error)))
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]  # the first half is sent first
        return accepted

    def _send_part(self, sink: Sink, run_id: str, kind: str, part: list[Entry]) -> None:
        """One request; if it carries metrics, its outcome decides how much the next may carry."""
        limit = sink.metrics_at_once(0)
        try:
            _log_batch(sink, run_id, kind, part)
        except (Unavailable, Refused) as error:
            too_much = error.too_slow if isinstance(error, Unavailable) else error.too_large
            if too_much and kind == "metric":
                self._pace.carried(len(part), limit, too_much=True)
            raise
        if kind == "metric":
            self._pace.carried(len(part), limit, too_much=False)

    def _prove_at_fault(self, sink: Sink, state: RunState, error: Refused) -> None:
        """Makes sure that the store takes anything at all for this run, before more entries are buried."""
        assert state.ref is not None
        try:
            sink.log_batch(state.ref.run_id, tags=[self._ends.probe(sink, state)])
        except Refused:
            raise Unavailable(f"the store refuses everything: {error}") from error


def _points(entries: Iterable[Entry]) -> list[Point]:
    return [entry for entry in entries if isinstance(entry, Point)]


def _log_batch(sink: Sink, run_id: str, kind: str, entries: Sequence[Entry]) -> None:
    if kind == "metric":
        sink.log_batch(run_id, metrics=_points(entries))
        return
    if kind == "param":
        sink.log_batch(run_id, params=_texts(entries))
    else:
        sink.log_batch(run_id, tags=_texts(entries))


def _texts(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    return [(entry[0], str(entry[1])) for entry in entries]


def _outcome(
    state: RunState, batch: Batch, delivered: Sequence[Entry], requests: int, dead: Sequence[tuple[Entry, str, str]]
) -> Outcome:
    """What became of a batch; `dead` are entries that were refused, with the reason and the name as it was logged."""
    found = extremes.of(_points(delivered))
    steps_before = state.steps_before if dead else {}
    return Outcome(
        run=batch.run,
        kind=batch.kind,
        blocks=batch.blocks,
        delivered=len(delivered) + batch.merged,
        merged=batch.merged,
        late=state.closed,
        requests=requests,
        keys=[(key, extreme.n) for key, extreme in found.items()],
        extremes=found,
        dead=[(key, 1, body_of(batch.run, as_logged(entry, steps_before), key), reason) for entry, reason, key in dead],
    )
