"""Ranks that fell, on which node ever: agents of several nodes make one end of a run of what each of them has seen.

The agents do not speak to each other, so each stores what fell on its node as a tag of the run, and then reads what the
run has: its status, and the tags of all nodes. The agent of rank 0's node does so before it reports the end, and once
more after that; another one, if the run has ended by then, ends it anew. Each writes before it reads, so that of two
which come at the same time one at least sees both, and from the same tags all make the same end.

When a rank fell each node says by its own clock. Where clocks differ the order may be wrong; all are named in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from tailrace_agent.decoding import decode_json
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.delivery.run_tags import RunTags
from tailrace_agent.ipc.tags import END_REASON_TAG, FALLEN_TAG, NONE_FELL
from tailrace_agent.log import Log
from tailrace_agent.mlflow.job_runs import is_over
from tailrace_agent.sinks.base import Sink, StoredRun

__all__ = ["Fall", "NodeFalls", "end_of_all"]

_TOLD: Final = 8
"""Nodes that a reason names beside the first."""


class Fall(msgspec.Struct, frozen=True):
    """What fell on one node.

    Attributes:
        status: What that makes of the run.
        reason: Who fell first there, and of what.
        time_ms: When, by the clock of that node.
    """

    status: str
    reason: str
    time_ms: int


class _Known(NamedTuple):
    """What a run has in MLflow."""

    run: StoredRun
    fall: Fall | None


def end_of_all(tags: Mapping[str, str]) -> Fall | None:
    """What all that fell make of the run; None where nothing did.

    Example:
        >>> fall = '{"status": "KILLED", "reason": "rank 5 was killed by SIGKILL", "time_ms": 9}'
        >>> end_of_all({"tailrace.fallen.node1": fall, "tailrace.fallen.node2": "none"}).reason
        'rank 5 was killed by SIGKILL'
    """
    falls = []
    for key, value in sorted(tags.items()):
        if key.startswith(FALLEN_TAG) and value != NONE_FELL:
            try:
                falls.append(decode_json(value, Fall))
            except (msgspec.DecodeError, UnicodeDecodeError):  # somebody has changed it
                continue
    if not falls:
        return None
    # Whom SIGTERM has ended was stopped by somebody who knew of another fall.
    first, *others = sorted(falls, key=lambda fall: ("SIGTERM" in fall.reason.partition(";")[0], fall.time_ms))
    if not others:
        return first
    named = [other.reason for other in others[:_TOLD]]
    more = [f"and {len(others) - _TOLD} nodes more"] if len(others) > _TOLD else []
    return Fall(first.status, f"{first.reason}; on other nodes: {'; '.join([*named, *more])}", first.time_ms)


class NodeFalls:
    """What fell on the nodes of jobs whose runs go to one tracking URI.

    Args:
        tags: Stores what fell.
        log: Where operators read.

    What the sink raises comes out, but for a refusal of a tag. Thread safety: several threads, each with its own run.
    """

    def __init__(self, tags: RunTags, log: Log) -> None:
        self._tags, self._log = tags, log

    def store(self, sink: Sink, state: RunState) -> None:
        """Before anything is read: what fell on this node."""
        job, end, ref = state.spec.job, state.end, state.ref
        if job is None or not job.several_nodes or not state.end_reason or end is None or ref is None:
            return
        fall = Fall(end.status, state.end_reason, end.time_ms)
        self._tags.store(sink, ref.run_id, [(f"{FALLEN_TAG}{job.node}", msgspec.json.encode(fall).decode())])

    def status(self, sink: Sink, state: RunState, status: str) -> str:
        """What the run's status is to be, of which this node knows so much; its reason is stored."""
        known = self._known(sink, state)
        if known is None or known.fall is None:
            return status
        self._explain(sink, known)
        return known.fall.status

    def end_anew(self, sink: Sink, state: RunState) -> None:
        """After the end was reported, or where another node's agent reports it: it may not have known of all."""
        known = self._known(sink, state)
        if known is None or known.fall is None or not is_over(known.run.status):
            return
        self._explain(sink, known)
        if known.run.status != known.fall.status:
            self._log.info("run ended anew", run_id=known.run.ref.run_id, status=known.fall.status)
            sink.end_run(known.run.ref.run_id, known.fall.status, known.run.end_time or 0)

    def forget(self, sink: Sink, state: RunState) -> None:
        """The ranks are started anew: what fell before is none of this attempt's; on all nodes, if rank 0 is here."""
        known, job = self._known(sink, state), state.spec.job
        if known is None or job is None:
            return
        mine = f"{FALLEN_TAG}{job.node}"
        for key, value in known.run.tags.items():
            if key.startswith(FALLEN_TAG) and value != NONE_FELL and (state.spec.owned or key == mine):
                self._tags.store(sink, known.run.ref.run_id, [(key, NONE_FELL)])

    def _known(self, sink: Sink, state: RunState) -> _Known | None:
        job, ref = state.spec.job, state.ref
        if job is None or not job.several_nodes or ref is None:
            return None
        found = next((found for found in sink.find_runs(ref.run_id) if found.ref.run_id == ref.run_id), None)
        return None if found is None else _Known(found, end_of_all(found.tags))

    def _explain(self, sink: Sink, known: _Known) -> None:
        assert known.fall is not None
        if known.run.tags.get(END_REASON_TAG) != known.fall.reason:
            self._tags.store(sink, known.run.ref.run_id, [(END_REASON_TAG, known.fall.reason)])
