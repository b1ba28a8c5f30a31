"""The jobs whose ranks log to this session: how each of their processes ends, and what that makes of their run.

The status of a run is its job's. While its launcher lives on this machine (`torchrun`, or `tailrace run`, which is the
parent of all), the job goes on, whoever of its ranks is gone: the launcher may start it anew. Then the one that fell
first decides, unless the launcher has told how it ended.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_jobs import fallen, reason_of, status_of_fallen
from tailrace_agent.delivery.run_state import RankState, RunState
from tailrace_agent.ipc.job_dir import JobDir, Outcome
from tailrace_agent.ipc.records import End, JobPart, run_hex
from tailrace_agent.ipc.session import Session
from tailrace_agent.log import Log
from tailrace_agent.pipeline.process_ends import ProcessEnds
from tailrace_agent.runtime.processes import Process, is_alive

__all__ = ["Gone", "JobWatch"]

_RESTART_WITHIN: Final = 3.0
"""Seconds after the end of a launcher within which its successor may start the ranks anew."""


class Gone(NamedTuple):
    """The end of a run that nobody has reported, and why; no reason where there is nothing to report.

    `of_job`: it is that of a whole job, which counts more than what its rank 0 has said.
    """

    end: End
    reason: str | None
    of_job: bool = False


class JobWatch:
    """Follows the processes of one session's jobs.

    Args:
        session: The session.
        book: The runs.
        log: Where operators read.

    Not thread-safe: the drain's thread calls everything.
    """

    def __init__(self, session: Session, book: RunBook, log: Log) -> None:
        self._session, self._book, self._log = session, book, log
        self._ends = ProcessEnds()
        self._over_since: dict[int, float] = {}
        self._judged: set[int] = set()

    def watch(self, state: RunState) -> None:
        """Looks at the processes of a run's ranks, and writes down what became of those that have ended."""
        job = state.spec.job
        if job is not None and any(job.launcher):
            self._ends.of(Process(*job.launcher))  # from the first look on, so that its end is seen
        ranks, changed = [], False
        for each in state.ranks:
            now = self._looked_at(each)
            ranks.append(now)
            changed = changed or now is not each
        if changed:
            self._book.update(state.run, ranks=ranks)

    def end_of(self, state: RunState, rings: set[str]) -> Gone | None:
        """The end of a run whose job is over, where nobody has said so, or somebody something else."""
        job = state.spec.job
        assert job is not None
        if state.finalized and not state.spec.owned:
            return None
        directory = JobDir(self._session.info.settings, job.key)
        outcome = directory.outcome
        if outcome is None and (directory.owned or is_alive(Process(*job.launcher))):
            return None
        if any(each.ring in rings for each in state.ranks):  # it writes yet, or was not read to its end
            self._over_since.pop(state.run, None)
            self._judged.discard(state.run)
            return None
        # A launcher that ends with its ranks (a shell around each of them) has another one above it.
        since = self._over_since.setdefault(state.run, time.monotonic())
        if outcome is None and any(job.launcher) and time.monotonic() - since < _RESTART_WITHIN:
            return None
        self._judged.add(state.run)
        gone = self._verdict(state, job, outcome)
        known = state.end is not None and gone is not None and state.end.status == gone.end.status
        if gone is None or (known and (gone.reason is None or state.end_reason is not None)):
            return None
        self._log.warning("job over", run=run_hex(state.run), status=gone.end.status, reason=gone.reason)
        return gone

    def open(self, state: RunState) -> bool:
        """Whether the job of a run may still say how it ended."""
        return state.spec.owned and state.spec.job is not None and state.run not in self._judged

    def _looked_at(self, rank: RankState) -> RankState:
        if rank.state == "gone" or rank.code is not None or rank.signal is not None:
            return rank
        process = Process(rank.pid, rank.started)
        found = self._ends.of(process)
        if found is None:
            return rank
        fate, time_ms = found
        # Of one that had done its part only an exit code matters: a launcher may kill what does not go by itself.
        bad = rank.state == "began" or (rank.state == "done" and bool(fate.code))
        if not bad and not fate.bad:
            return rank
        return RankState(
            rank=rank.rank,
            ring=rank.ring,
            pid=rank.pid,
            started=rank.started,
            attempt=rank.attempt,
            state="gone" if bad else rank.state,
            time_ms=time_ms if bad else rank.time_ms,
            detail=rank.detail,
            signal=fate.signal,
            code=fate.code,
            modes=rank.modes,
        )

    def _verdict(self, state: RunState, job: JobPart, outcome: Outcome | None) -> Gone | None:
        at = state.last_ns // 1_000_000 or state.spec.start_time
        ranks = fallen(state)
        if not state.spec.owned and not (job.several_nodes and (ranks or (outcome is not None and outcome.fate.bad))):
            # Another node's agent ends it, and there is nothing that this one would have to tell it.
            return Gone(End(state.run, "FINISHED", at), None) if state.end is None else None
        reason = reason_of(ranks, job, self._session.info.hostname) if ranks else None
        if outcome is not None and not job.own:  # what became of one rank that knows best
            if not outcome.fate.bad:
                # The command knows best whether it has got over what became of some process of its.
                return Gone(End(state.run, "FINISHED", outcome.time_ms), None) if state.end is None else None
            status = "KILLED" if outcome.fate.signal is not None else "FAILED"
            command = f"the command of `tailrace run` {outcome.fate.text}"
            text = f"{command}: {reason}" if reason else command
            return Gone(End(state.run, status, outcome.time_ms), text, of_job=True)
        if ranks:
            end = End(state.run, status_of_fallen(ranks), max(each.time_ms for each in ranks))
            return Gone(end, reason, of_job=True)
        ended = self._ends.of(Process(*job.launcher)) if any(job.launcher) else None
        if ended is not None and ended[0].bad:
            status = "KILLED" if ended[0].signal is not None else "FAILED"
            text = f"its launcher (process {job.launcher[0]} on {self._session.info.hostname}) {ended[0].text}"
            return Gone(End(state.run, status, ended[1]), text, of_job=True)
        # All have done their part, and rank 0 has not said how it went: it was another one's word that got lost.
        return Gone(End(state.run, "FINISHED", at), None) if state.end is None else None
