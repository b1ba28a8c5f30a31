"""A run that the processes of a job share, as their node's agent knows it: who is in it, and what that means for it.

Pure, but for the state that is changed, and for a look at whether a process lives.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Final

from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_state import RankState, RunState, ledger_tag
from tailrace_agent.ipc.notices import note
from tailrace_agent.ipc.records import JobPart, Rank, RunSpec
from tailrace_agent.runtime.processes import Fate, Process, is_alive
from tailrace_agent.settings.units import duration
from tailrace_agent.text.quoting import quoted

__all__ = [
    "awaited", "clocks_differ", "fallen", "goes_on", "join", "not_there", "note_rank", "rank_record", "reason_of",
    "status_of_fallen",
]  # fmt: skip

_TOLD: Final = 8
"""Ranks that a reason names beside the first."""
_CLOCKS_AGREE: Final = 60.0
"""Seconds by which they may differ without a word."""
_SEEN_WITHIN_MS: Final = 500
"""Less than any launcher leaves those that it has asked to end, before it kills them."""


def join(state: RunState, spec: RunSpec, ring: str) -> None:
    """Another process of the job has begun the same run: rank 0, a further one, or one of the next attempt."""
    mine, theirs = state.spec.job, spec.job
    assert mine is not None
    assert theirs is not None
    _note_another_store(state, spec)
    # Nobody but rank 0 opens a run again that has ended; on other nodes, any process that was not there before.
    known = [state.ring, *(each.ring for each in state.ranks)]
    if mine.several_nodes and spec.owned == state.spec.owned:
        state.anew = state.anew or any(each.rank == theirs.rank and each.ring != ring for each in state.ranks)
    again = state.end is not None and ring not in known and (spec.owned or not state.spec.owned)
    was_closed = state.closed
    if theirs.attempt > mine.attempt or (again and theirs.attempt == mine.attempt):
        # An end of the attempt before is none of the job's.
        state.advance(Event.RESTARTED)
        # Of an elastic job, whose nodes may have changed places: rank 0 is where it is now.
        state.spec, state.ring = spec, ring
    elif spec.owned and not state.spec.owned:
        if state.ledger_tag == ledger_tag(state.spec):  # in the attempt in which this session came to the run
            state.ledger_tag = ledger_tag(spec)
        state.spec, state.ring = spec, ring
    else:
        return
    # The run is looked for once more: MLflow is to know that it goes on, and in which attempt.
    if was_closed or (spec.owned and theirs.attempt):
        state.ref, state.attempts = None, max(1, state.attempts)


def note_rank(state: RunState, record: Rank, ring: str) -> None:
    """A process of the job says how far it is."""
    before = next((each for each in state.ranks if each.rank == record.rank), None)
    again = before is not None and before.ring != ring and record.state == "began"
    if before is not None and again and record.attempt == before.attempt and _lives(before):
        mine = state.spec.job
        name = f" {mine.name!r}" if mine is not None and mine.name else ""
        note(
            state.notices,
            state.topics,
            f"two processes ({before.pid} and {record.pid}) say that they are rank {record.rank} of job{name}: if they "
            "are of two jobs, give each a name of its own (TAILRACE_JOB); what both log goes to one run",
        )
    _note_differences(state, record)
    now = RankState(
        rank=record.rank,
        ring=ring,
        pid=record.pid,
        started=record.started,
        attempt=record.attempt,
        state=record.state,
        time_ms=record.time_ms,
        detail=record.detail,
        modes=record.modes,
    )
    others = [each for each in state.ranks if each.rank != record.rank]
    # A launcher that starts them anew may number them anew, and not count that (a node came or went): who fell before
    # is none of the job's any more.
    state.ranks = [*(each for each in others if not again or each.state not in ("gone", "failed")), now]


def goes_on(job: JobPart) -> str:
    """What its users are told where the run of a job is there and running before its rank 0 has begun it."""
    name = f" {job.name!r}" if job.name else ""
    return (
        f"the run of job{name} is in MLflow already, and running: this one goes on in it. If the one that is running "
        "is another job, give each a name of its own (TAILRACE_JOB, start_run(job=…)); what both log goes to one run"
    )


def not_there(mark: str, job: JobPart | None) -> str:
    """What its users are told where a run that another agent creates is not to be found.

    Args:
        mark: What its tag `tailrace.run` would be.
        job: The job that shares it.
    """
    text = f"run {mark} is not in MLflow yet; what was logged to it from here waits until it is"
    if job is None:
        return text
    return (
        f"{text}. The agent of rank 0's node creates it: if that has logged already, this node ({job.node}) has "
        "another tracking_uri, experiment, run_name or job name"
    )


def clocks_differ(ahead: float) -> str | None:
    """What users are told where this machine's clock is not the server's; None where the two agree.

    Args:
        ahead: Seconds by which it is ahead of the server's; negative: behind.

    Example:
        >>> clocks_differ(3.0)
        >>> clocks_differ(-300.0)
        "this machine's clock is 5 min behind the server's: points have its time, …"
    """
    if abs(ahead) < _CLOCKS_AGREE:
        return None
    direction = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is {duration(abs(ahead))} {direction} the server's: points have its time, beside those "
        "of other machines with theirs. Set it (timedatectl set-ntp true); nothing is lost"
    )


def _note_another_store(state: RunState, spec: RunSpec) -> None:
    """One process of the job on this machine means another store than those before it."""
    mine, theirs = state.spec.job, spec.job
    assert mine is not None
    assert theirs is not None
    if spec.tracking_uri == state.spec.tracking_uri or theirs.attempt > mine.attempt:
        return
    goes = spec if spec.owned and not state.spec.owned else state.spec  # rank 0's, where that is here
    where, other = (_place_of(each) for each in ((state.spec, spec) if goes is state.spec else (spec, state.spec)))
    ranks = f"ranks {mine.rank} and {theirs.rank} differ in tracking_uri"
    note(
        state.notices,
        state.topics,
        f"{ranks}: what all ranks on this machine log goes to {where}, and nothing to {other}. Give all the same",
    )


def _place_of(spec: RunSpec) -> str:
    return quoted(spec.tracking_uri) if spec.tracking_uri else "MLflow's default store"


def _note_differences(state: RunState, record: Rank) -> None:
    """Ranks that do not agree on what they log."""
    other = next((each for each in state.ranks if each.rank != record.rank and each.modes != record.modes), None)
    if other is not None and record.state == "began" and _lives(other):
        note(
            state.notices,
            state.topics,
            f"ranks {other.rank} and {record.rank} differ in the setting `ranks`: {_shown(other.modes)} and "
            f"{_shown(record.modes)}. Each goes by its own, so that statistics may lack some; give all the same",
        )


def _shown(modes: Mapping[str, str]) -> str:
    return ", ".join(f"{pattern}={mode}" for pattern, mode in modes.items()) or "zero"


def _lives(rank: RankState) -> bool:
    return rank.state == "began" and is_alive(Process(rank.pid, rank.started))


def rank_record(run: int, rank: RankState) -> Rank:
    """What a rank has said of itself last, as it was."""
    state = "began" if rank.state in ("began", "gone") else rank.state
    return Rank(run, rank.rank, rank.pid, rank.started, rank.attempt, state, rank.time_ms, rank.detail, rank.modes)


def awaited(state: RunState) -> bool:
    """Whether ranks on this machine have not done their part yet."""
    return any(each.state == "began" for each in state.ranks)


def fallen(state: RunState) -> list[RankState]:
    """The ranks of the latest attempt that have not done their part, and never will, the first one first."""
    latest = max((each.attempt for each in state.ranks), default=0)
    bad = [each for each in state.ranks if each.attempt == latest and (each.state in ("failed", "gone"))]
    return sorted(bad, key=lambda each: (_fell_ms(each), each.rank))


def _fell_ms(rank: RankState) -> int:
    """When a rank fell, about. That one was killed is seen a moment later; by then others have failed of it."""
    stopped = rank.signal in (None, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return rank.time_ms - (0 if stopped else _SEEN_WITHIN_MS)


def status_of_fallen(ranks: list[RankState]) -> str:
    """What the run of a job is whose ranks have fallen, the first one first."""
    first = ranks[0]
    return "FAILED" if first.state == "failed" or first.code else "KILLED"


def reason_of(ranks: list[RankState], job: JobPart, host: str) -> str:
    """Who fell first, of what, and where."""
    first, others = ranks[0], ranks[1:]
    if others and all(each.state == "gone" and each.code is None and each.signal is None for each in ranks):
        named = ", ".join(str(each.rank) for each in ranks[:_TOLD])
        return f"ranks {named}{_more(ranks)} on {host} are gone without a word; which of them fell first nobody saw"
    fate = Fate(first.code, first.signal)
    what = f"failed: {first.detail}" if first.state == "failed" else fate.text
    if first.state == "failed" and fate.bad:
        what += f" (its process {fate.text})"
    where = f"process {first.pid} on {host}" + (f", {job.node}" if job.several_nodes else "")
    again = f" in attempt {first.attempt}" if first.attempt else ""
    text = f"rank {first.rank} ({where}) {what}{again}"
    if others:
        named = ", ".join(str(each.rank) for each in others[:_TOLD])
        text += f"; after it rank{'s' if len(others) > 1 else ''} {named}{_more(others)}"
    return text


def _more(ranks: list[RankState]) -> str:
    return f" and {len(ranks) - _TOLD} more" if len(ranks) > _TOLD else ""
