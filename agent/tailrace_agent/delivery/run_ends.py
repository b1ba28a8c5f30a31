"""The end of a run, as it is reported to MLflow: whoever reads a terminal status finds everything that came before it.

Invariants
----------
1. FINISHED, FAILED or KILLED is the last write of a run. Every value that was accepted before its end is readable by
   then, and so are its ledger, its note of extremes and its metadata.
2. Two waits before it have a bound, since they need not end: for artifacts that their store does not take, and for
   metadata. What comes after the status is counted as `late` in the ledger, which is then stored anew.
3. Nested runs that have ended are closed before their parent is.
4. That a process is gone is recorded at once, long before its run is KILLED: by the tag `tailrace.end_reason`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from tailrace_agent.delivery.node_falls import NodeFalls
from tailrace_agent.delivery.node_names import NodeNames
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_jobs import awaited
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_state import RunState, ledger_tag
from tailrace_agent.delivery.run_tags import RunTags
from tailrace_agent.errors import Refused
from tailrace_agent.ipc.notices import Notice, Topic, refused
from tailrace_agent.ipc.tags import END_REASON_TAG, LEDGER_TAG, STOPPED_TAG
from tailrace_agent.ledger import Ledger
from tailrace_agent.log import Log
from tailrace_agent.mlflow.job_runs import attempt_of
from tailrace_agent.sinks.base import Sink
from tailrace_agent.spool import extremes
from tailrace_agent.spool.blocks import Outcome
from tailrace_agent.spool.extremes import Extreme
from tailrace_agent.spool.store import Spool

__all__ = ["RunEnds"]

_SOON: Final = 0.05
_LOOK_EVERY: Final = 1.0
_READING: Final = 1.0
"""Seconds for which what waits of a run that has ended is not sent, since more of it may be in the rings."""
_ARTIFACTS: Final = 60.0
"""Seconds without a successful upload after which a run ends before its artifacts have arrived."""
_ARTIFACTS_AT_MOST: Final = 3600.0
"""Seconds after its end for which a run waits for uploads that are under way."""
_RANKS: Final = 10.0
"""Seconds after the end that rank 0 has said for which a run waits for the other ranks on this machine."""
_METADATA: Final = {"KILLED": 2.0}
_CONSOLE: Final = 10.0
"""Seconds after its end for which a run stays open for what it has printed."""
_METADATA_OTHERWISE: Final = 5.0
"""Seconds after its end for which a run stays open for the tags and files that describe where it comes from."""


class RunEnds:
    """The last writes of all runs that go to one tracking URI.

    Args:
        spool: Where what is accepted waits.
        book: The runs.
        log: Where operators read.

    What the sink raises comes out; nothing has changed then.

    Thread safety: several threads, each with a run of its own.
    """

    def __init__(self, spool: Spool, book: RunBook, log: Log) -> None:
        self._spool, self._book, self._log = spool, book, log
        # Since when this agent knows it (monotonic seconds): with each agent the waits begin anew.
        self._ended: dict[int, float] = {}
        self._stored: dict[int, str] = {}  # the ledger of each run as this agent has stored it
        self._tags = RunTags(log)
        self.falls = NodeFalls(self._tags, log)
        self.names = NodeNames(book, self._tags)
        self._single: set[int] = set()  # runs whose twins, if there were any, are gone

    def explain(self, sink: Sink, state: RunState) -> None:
        """Records why a run will be KILLED, as its first write after that was found; not where its program ended it."""
        if bool(state.end_reason) == state.explained:
            return
        assert state.ref is not None
        if self._goes_on_elsewhere(sink, state):
            self._book.update(state.run, explained=True)
            return
        self.falls.store(sink, state)
        if state.spec.owned and state.end_reason:
            self._tags.store(sink, state.ref.run_id, [(END_REASON_TAG, state.end_reason)])
        elif state.spec.owned:
            self._tags.delete(sink, state.ref.run_id, END_REASON_TAG)
        self._book.update(state.run, explained=bool(state.end_reason))

    def reading(self, state: RunState, now: float) -> bool:
        """Whether the rings are being read to their ends for a run that has ended a moment ago: there may be more."""
        ended = self._ended.setdefault(state.run, now)
        return self._book.waiters.end_barrier(state.run) is None and now < ended + _READING

    def due(self, state: RunState, now: float) -> float:
        """When a run that has ended may be closed: `now`, or when to check again; infinity while its values wait."""
        ended = self._ended.setdefault(state.run, now)
        barrier = self._book.waiters.end_barrier(state.run)
        if barrier is None:  # the rings are being read to their end: there may be more
            return now + _SOON
        if self._book.ends_open_below(state.run):  # their program waits for this end alone
            return now + _SOON
        first = self._spool.waiting.first(state.run, artifacts=False)
        # Of other ranks, what came after the word of rank 0 is to be there, too.
        barrier = first or barrier if state.ranks and now < ended + _RANKS else barrier
        if first is not None and first <= barrier:
            return math.inf
        waits = [now]
        if awaited(state):
            waits.append(ended + _RANKS)
        if self._spool.waiting.backlog(state.run).get("artifact"):
            stalled = self._book.waiters.uploads_stalled_since(state.run)
            waits.append(ended + _ARTIFACTS_AT_MOST if stalled is None else stalled + _ARTIFACTS)
        if not state.described:
            waits.append(ended + _METADATA.get(state.status, _METADATA_OTHERWISE))
        if not state.printed_out:
            waits.append(ended + _CONSOLE)
        return max(now, min(max(waits), now + _LOOK_EVERY))

    def last_tags(self, sink: Sink, state: RunState, outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
        """The tags of an ended run, as they are to be when these blocks are settled: `close` then has none to send."""
        if not state.spec.owned:
            return []
        self._discard_twins_once(sink, state)
        tag = self.ledger_tag(sink, state)
        ledger, found = self._spool.foresee(state.run, outcomes)
        return [*self._note(state, ledger, found), *_stopped(state), (tag, _text(ledger))]

    def have_stored(self, run: int, tags: Iterable[tuple[str, str]]) -> None:
        """The run has these tags in MLflow."""
        self._stored.update((run, text) for key, text in tags if key.startswith(LEDGER_TAG))

    def close(self, sink: Sink, state: RunState) -> None:
        """Stores the ledger, and then reports to MLflow how the run ended."""
        end, ref = state.end, state.ref
        assert end is not None
        assert ref is not None
        self._settle(sink, state)
        if state.spec.run_id and state.spec.owned and not (state.spec.created or state.end_reason):
            # Whoever watches over the attempt before this one may have come to it only after this one had begun.
            self._tags.delete(sink, ref.run_id, END_REASON_TAG)
        status, elsewhere = end.status, self._goes_on_elsewhere(sink, state)
        if state.spec.owned and status != "RUNNING" and not elsewhere:
            status = self.falls.status(sink, state, status)
            # As before whatever is sent: after a power cut MLflow must not have an end that nobody here knows of.
            self._spool.sync()
            try:
                sink.end_run(ref.run_id, status, end.time_ms)
            except Refused as error:  # it will stay as it is in MLflow; the other runs must not wait for it
                text = f"MLflow refused the status {status}: {error}"
                self._book.notice(state.run, Notice(text, Topic(refused("status", status))))
        # Another node may have stored meanwhile what fell there.
        if status != "RUNNING" and (state.spec.owned or state.end_reason) and not elsewhere:
            self.falls.end_anew(sink, state)
        if not self._book.advance(state.run, Event.REPORTED, reported=end):  # its program has set another end meanwhile
            return
        self._ended.pop(state.run, None)
        self._log.info("run closed", run_id=ref.run_id, status=status, reason=state.end_reason)

    def finish(self, sink: Sink, state: RunState) -> bool:
        """After the end: stores the ledger anew if it has changed; whether nothing is left to do for this run."""
        self.names.release(sink, state)
        self._settle(sink, state)
        if not self._book.advance(state.run, Event.SETTLED):  # its program has set another end meanwhile
            return False
        # Something came meanwhile, and was recorded in the book before `finalized` was.
        if self._spool.waiting.backlog(state.run) or self._stored.get(state.run) not in (
            None,
            _text(self._spool.counts.ledger(state.run)),
        ):
            self._book.advance(state.run, Event.CAME)
            return False
        self.forget(state.run)
        return True

    def withdraw_note(self, sink: Sink, state: RunState) -> None:
        """Before metrics are sent: a note of this run would not be true any more, or not even know of them."""
        assert state.ref is not None
        run_id = state.ref.run_id
        if not state.shared and self._others_have_logged(state):
            self._share(sink, state)
        if state.noted and self._tags.store(sink, run_id, [(extremes.NOTE, extremes.NO_NOTE)]):
            self._book.update(state.run, noted=False)

    def ledger_tag(self, sink: Sink, state: RunState) -> str:
        """Under which tag this session's ledger goes: beside that of another one, where a job goes on in its run."""
        assert state.ref is not None
        tag = state.ledger_tag or ledger_tag(state.spec)  # one of an older version
        if state.spec.job is None or state.ledger_own == tag:
            return tag
        if tag in sink.texts_of(state.ref.run_id).tags:  # a job that was named and started anew counts no attempts
            tag = f"{tag}.{os.urandom(4).hex()}"
            if state.spec.owned and not state.shared:
                self._share(sink, state)
        self._book.update(state.run, ledger_tag=tag, ledger_own=tag)
        return tag

    def probe(self, sink: Sink, state: RunState) -> tuple[str, str]:
        """A tag that a store takes which takes anything at all for the run: one that it gets in any case."""
        if not state.spec.owned and state.spec.job is None:
            return extremes.SHARED, "true"  # the ledger there is its owner's
        return self.ledger_tag(sink, state), _text(self._spool.counts.ledger(state.run))

    def forget(self, run: int) -> None:
        """Nothing of the run is needed any more."""
        self._ended.pop(run, None)
        self._stored.pop(run, None)
        self._single.discard(run)

    def _others_have_logged(self, state: RunState) -> bool:
        """Whether the run has points of other sessions, as far as that can be known before it gets any of this one."""
        if state.spec.run_id:
            # Of one that is new nobody has made a note, nor will: who has not created a run makes none.
            return not state.spec.is_new
        if state.spec.job is None or not state.spec.owned:
            return False  # what ranks of other nodes log has names of its own
        if (state.ledger_tag or ledger_tag(state.spec)) != LEDGER_TAG:  # it came in a later attempt, or rank 0 moved
            return True
        return state.ref is not None and state.ref.measured and not self._delivered(state)

    def _delivered(self, state: RunState) -> int:
        return self._spool.counts.ledger(state.run).of("metric").delivered

    def _share(self, sink: Sink, state: RunState) -> None:
        assert state.ref is not None
        if self._tags.store(sink, state.ref.run_id, [(extremes.SHARED, "true")]):
            self._book.update(state.run, shared=True)

    def _goes_on_elsewhere(self, sink: Sink, state: RunState) -> bool:
        """Whether the job of a run that has ended here was started anew on other nodes, which say how it ends."""
        job = state.spec.job
        if job is None or not job.several_nodes or not state.end_reason:
            return False
        assert state.ref is not None
        return attempt_of(sink.texts_of(state.ref.run_id).tags) > job.attempt

    def _settle(self, sink: Sink, state: RunState) -> None:
        """The ledger goes with the run, and twins of its creation go away."""
        assert state.ref is not None
        job = state.spec.job
        if not state.spec.owned and (job is None or not job.several_nodes):
            return  # the ledger of somebody else's run is its owner's
        if state.spec.owned:
            self._discard_twins_once(sink, state)
        self._store_ledger(state, sink)

    def _discard_twins_once(self, sink: Sink, state: RunState) -> None:
        assert state.ref is not None
        job = state.spec.job
        # A single attempt makes no two; and what has the mark of a weak key may be another job's.
        twins = state.attempts > 1 and not state.spec.run_id and not (job is not None and job.weak)
        if twins and state.run not in self._single:
            self._discard_twins(sink, state, state.ref.run_id)
            self._single.add(state.run)

    def _store_ledger(self, state: RunState, sink: Sink) -> None:
        assert state.ref is not None
        ledger = self._spool.counts.ledger(state.run)
        text = _text(ledger)
        if self._stored.get(state.run) != text:
            tag = self.ledger_tag(sink, state)
            found = self._spool.counts.extremes(state.run)
            note = self._note(state, ledger, found) if state.spec.owned else []
            self._tags.store(sink, state.ref.run_id, [*note, *_stopped(state), (tag, text)])
            self._stored[state.run] = text

    def _note(self, state: RunState, ledger: Ledger, found: Mapping[str, Extreme]) -> list[tuple[str, str]]:
        """The smallest and largest values, to be noted with the run, if they are those of all that it has."""
        counts = ledger.of("metric")
        if state.spec.run_id or state.shared or state.partial or counts.dead or counts.dropped or counts.pending:
            return []
        if not found:
            return []
        # Written down here first, so that no kill leaves a note behind that nobody would withdraw.
        self._book.update(state.run, noted=True)
        return [(extremes.NOTE, extremes.to_text(found))]

    def _discard_twins(self, sink: Sink, state: RunState, run_id: str) -> None:
        try:
            for _ in range(sink.discard_twins(state.spec, run_id)):
                self._log.warning("removed a twin of a run", run_id=run_id)
        except Refused as error:  # not everybody may delete
            self._log.warning("twins stay", run_id=run_id, reason=str(error))


def _stopped(state: RunState) -> list[tuple[str, str]]:
    """With a run that has ended after it was asked to, goes what it was asked."""
    return [(STOPPED_TAG, state.stop or "somebody")] if state.stop is not None and state.end is not None else []


def _text(ledger: Ledger) -> str:
    """A ledger as it is stored with its run."""
    return msgspec.json.encode(ledger.summary()).decode()
