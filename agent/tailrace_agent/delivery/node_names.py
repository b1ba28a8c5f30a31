"""Nodes of a job that are called the same: each agent claims its node's name in the run, and sees another one's claim.

Names come from the launcher, a setting, or the host, and nothing makes them differ: a settings file that all nodes
read, containers with one host name. Their system metrics and statistics are then one series for two machines; their
ledgers and falls would be stored under one tag, so that one is lost.

A claim is a tag of the run. It is read, written, and read again, so that of two which come at the same time one at
least sees the other. Who sees one calls itself otherwise from then on in what its agent stores, and says so: the
names of metrics are known to its program, and stay. A claim goes when nothing more comes from its node; that of a
machine which has disappeared is still there when the job goes on elsewhere, in a later attempt or without one being
counted, so that what is said is put with care.
"""

from __future__ import annotations

import os

import msgspec

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_state import RunState, ledger_tag
from tailrace_agent.delivery.run_tags import RunTags
from tailrace_agent.ipc.notices import Notice, Topic
from tailrace_agent.ipc.tags import NODE_TAG
from tailrace_agent.sinks.base import Sink
from tailrace_agent.text.quoting import quoted

__all__ = ["NodeNames"]

_FREE = "free"
"""Stands in such a tag when nothing more comes from the node."""


class NodeNames:
    """The names of this node in the runs of jobs that go to one tracking URI.

    Args:
        book: The runs.
        tags: Stores the claims.

    What the sink raises comes out; then the claim is made again. Thread safety: several threads, each with its own run.
    """

    def __init__(self, book: RunBook, tags: RunTags) -> None:
        self._book, self._tags = book, tags

    def claim(self, sink: Sink, state: RunState) -> None:
        """Once the run is there, and before anything is stored under the name."""
        job, ref = state.spec.job, state.ref
        if job is None or not job.several_nodes or job.own or ref is None or state.claim_stored:
            return
        if not state.claim:  # on record before it is made, or the next agent would take it for another's
            machine = f"{os.uname().nodename} {job.attempt} {os.urandom(4).hex()}"
            self._book.update(state.run, claim=machine)
        key = f"{NODE_TAG}{job.node}"
        other = self._other(sink, state, key)
        if other is None:
            self._tags.store(sink, ref.run_id, [(key, state.claim)])
            other = self._other(sink, state, key)
        if other is None:
            self._book.update(state.run, claim_stored=True)
            return
        name = f"{job.node}-{state.claim.rpartition(' ')[2]}"
        spec = msgspec.structs.replace(state.spec, job=msgspec.structs.replace(job, node=name))
        before = state.ledger_tag == ledger_tag(state.spec)
        tag = ledger_tag(spec) if before else state.ledger_tag
        self._book.update(state.run, spec=spec, ledger_tag=tag, claim_stored=True)
        self._book.notice(state.run, Notice(_said(job.node, other.split(" ")[0], name), Topic("node names")))

    def release(self, sink: Sink, state: RunState) -> None:
        """Nothing more comes from here."""
        job, ref = state.spec.job, state.ref
        if job is None or ref is None or not state.claim_stored:
            return
        key = f"{NODE_TAG}{job.node}"
        if sink.texts_of(ref.run_id).tags.get(key) == state.claim:
            self._tags.store(sink, ref.run_id, [(key, _FREE)])
        self._book.update(state.run, claim_stored=False)

    def _other(self, sink: Sink, state: RunState, key: str) -> str | None:
        """Who else has claimed the name in this attempt."""
        assert state.ref is not None
        found = sink.texts_of(state.ref.run_id).tags.get(key, _FREE)
        if found in (_FREE, state.claim):
            return None
        attempt = found.split(" ")[1:2]
        return found if attempt == state.claim.split(" ")[1:2] else None


def _said(node: str, host: str, name: str) -> str:
    return (
        f"another machine or session of this job is called {quoted(node)}, too (on host {quoted(host)}): if it is at "
        "work, its system metrics and statistics of ranks and those of this one are one series. Give each node a "
        f"system_metrics_node of its own. The ledger of this one is stored as that of {quoted(name)}; nothing is lost"
    )
