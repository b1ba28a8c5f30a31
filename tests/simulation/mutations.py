"""Faults of this project's past, to be put back: a simulator that does not find them finds nothing.

Each is a few words of the source, exchanged in memory; `commit` is where the history has the mend.
"""

from __future__ import annotations
import __future__

import contextlib
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

__all__ = ["MUTATIONS", "Mutation", "mutated"]


class Mutation(NamedTuple):
    """One fault: where it was (`module:Class.method`), and the words there now and then."""

    commit: str
    where: str
    now: str
    then: str


MUTATIONS = {
    "rows that come while a run is being finalized stay where they are": Mutation(
        "4323563",
        "delivery.run_ends:RunEnds.finish",
        "if self._spool.waiting.backlog(state.run) or",
        "if False and",
    ),
    "a run is told to be over before what came before its end": Mutation(
        "2156981",
        "delivery.run_ends:RunEnds.due",
        "if first is not None and first <= barrier:",
        "if False:",
    ),
    "a run is told to be over while the rings still hold values of it": Mutation(
        "2156981",
        "delivery.run_ends:RunEnds.due",
        "if barrier is None:",
        "barrier = barrier or 0\n    if False:",
    ),
    "a parent is told to be over before the runs below it": Mutation(
        "2156981",
        "delivery.run_ends:RunEnds.due",
        "if self._book.ends_open_below(state.run):",
        "if False:",
    ),
    "an artifact that its store never takes is tried for ever": Mutation(
        "2156981",
        "delivery.uploads:Uploads._failed",
        "if counted >= DEADLY:",
        "if False:",
    ),
    "a run is told to be over without its ledger": Mutation(
        "e553cb4",
        "delivery.run_ends:RunEnds.close",
        "self._settle(sink, state)",
        "pass",
    ),
    "who waits does not wait for children that the agent has not seen": Mutation(
        "a697945",
        "pipeline.pipeline:Pipeline._drain",
        "if barriers_due or now >= self._look_at:",
        "if now >= self._look_at:",
    ),
    "a flush is answered before the agent has counted everything": Mutation(
        "a118dbe",
        "delivery.waiters:Waiters.settle",
        "if mark.barrier is None or (first is not None and first <= mark.barrier):",
        "if first is not None and mark.barrier is not None and first <= mark.barrier:",
    ),
    "a request whose answer was lost is taken to be stored": Mutation(
        "b947662",
        "delivery.run_requests:RunRequests._send_bisecting",
        "except Unavailable:",
        "except Unavailable as error:\n"
        "            if error.too_slow:\n"
        "                taken += part\n"
        "                continue",
    ),
    "two threads serve one run at the same time": Mutation(
        "",  # never was: several threads came with the claim
        "delivery.claims:Claims.serving",
        "run not in self._served and",
        "True and",
    ),
    "rows are fed twice when a drain fails half way": Mutation(
        "861f2e6",
        "pipeline.ring_drain:RingDrain.read",
        "self._intake.take()  # what was fed so far",
        "pass  # what was fed so far",
    ),
    "what is on its way is dropped at the bound": Mutation(
        "861f2e6",
        "spool.waiting:Waiting.holding",
        "self.held |= ids",
        "pass",
    ),
    "what a program logged last, before it died, is not read": Mutation(
        "861f2e6",
        "pipeline.ring_drain:RingDrain.retire",
        "if source.dead and read and not self._intake.devices.give_up(name):",
        "if True:",
    ),
    "what was taken over before a kill is taken over once more": Mutation(
        "861f2e6",
        "pipeline.ring_drain:RingDrain.find",
        "if name in positions:",
        "if False:",
    ),
    "a hole in a spill file reaches rows that were not read yet": Mutation(
        "",  # never was: the holes came with the claim
        "ipc.ring_reader:RingReader._give_back",
        "self._spill - self._spill_base",
        "self._spill + 30_000 - self._spill_base",
    ),
    "a staged copy is deleted before the spool knows that it has arrived": Mutation(
        "861f2e6",
        "delivery.uploads:Uploads._arrived",
        "pieces = self._pieces.get(block.id)",
        "pieces = self._source.discard(record) or self._pieces.get(block.id)",
    ),
}


@contextlib.contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    """While it lasts, tailrace_agent has that fault."""
    module_name, _, path = mutation.where.partition(":")
    module = importlib.import_module(f"tailrace_agent.{module_name}")
    owner: Any = module
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    source = textwrap.dedent(inspect.getsource(vars(owner)[name]))
    if source.count(mutation.now) != 1:
        raise LookupError(f"{mutation.where} holds {mutation.now!r} {source.count(mutation.now)} times, and not once")
    names: dict[str, Any] = {}
    code = compile(
        source.replace(mutation.now, mutation.then),
        mutation.where,
        "exec",
        __future__.annotations.compiler_flag,
        dont_inherit=True,
    )
    exec(code, vars(module), names)
    with mock.patch.object(owner, name, names[name]):
        yield
