"""The run book: every run of a session, its way from requested to closed, and who waits for it.

State changes under one lock and is written to the spool before the lock is released, so that what an agent knew, its
successor knows. How far a run is changes by the table in `run_phase`, and by nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from tailrace_agent.delivery.run_jobs import join, note_rank
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_records import StandIn, nowhere, restored
from tailrace_agent.delivery.run_state import RunState, finite, status_of
from tailrace_agent.delivery.waiters import Waiters
from tailrace_agent.ipc.curves import At
from tailrace_agent.ipc.notices import LONGEST, Notice, note
from tailrace_agent.ipc.records import End, Goals, ModelOutcome, Monitor, Rank, Samples, Start
from tailrace_agent.ipc.status import MetricEnds, RunStatus
from tailrace_agent.ipc.stored import to_finite
from tailrace_agent.ledger import Ledger
from tailrace_agent.spool.rank_rows import RankSteps
from tailrace_agent.text.quoting import plain

__all__ = ["RunBook"]

_NO_METRICS: Final = MetricEnds()
_MOST_EARLY: Final = 1_000  # runs


class RunBook:
    """All runs of a session.

    Args:
        states: Encoded states by run, from the spool; empty for a run of which there are blocks and no state.
        save: Writes an encoded state to the spool.
        stand_in: What to take for the spec of a run whose own cannot be read.

    Thread safety: every method from any thread. All that changes anything holds the lock; what reads one value may not,
    and so does not wait for a disk.
    """

    def __init__(
        self, states: Mapping[int, bytes], save: Callable[[int, bytes], None], stand_in: StandIn = nowhere
    ) -> None:
        loaded = [restored(run, encoded, stand_in) for run, encoded in states.items()]
        loaded.sort(key=lambda state: state.spec.start_time)
        self._states = {state.run: state for state in loaded}
        # Each worker goes through them at each of its steps: a session may have had thousands of others.
        self._unfinished = {state.run: state for state in loaded if not state.finalized}
        self._save, self._stand_in = save, stand_in
        # Re-entrant: what holds it calls `update`, and `steady` is held around `start` and `end`.
        self._lock = threading.RLock()
        self.waiters = Waiters(self._lock, (s.run for s in loaded if s.end is not None and not s.closed))
        self._credentials: dict[str | None, str] = {}
        self._changed: set[int] = set(self._states)  # all: their status files may be gone with a reboot
        self._early_goals: dict[int, dict[str, str]] = {}
        self._parents = {state.spec.parent for state in loaded}

    @contextmanager
    def steady(self) -> Iterator[None]:
        """While states that were encoded are being written, no newer one is written before them."""
        with self._lock:
            yield

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, run: int) -> RunState | None:
        """A run's state; whoever gets it changes nothing of it."""
        return self._states.get(run)

    def all(self) -> list[RunState]:
        """Every run, oldest first."""
        return list(self._states.values())  # at once, without the lock

    def all_unfinished(self) -> list[RunState]:
        """Runs that still want something, oldest first; one that does so again comes last."""
        return list(self._unfinished.values())  # at once, without the lock

    def unfinished(self, tracking_uri: str | None) -> list[RunState]:
        """Those of a destination."""
        return [state for state in self.all_unfinished() if state.spec.tracking_uri == tracking_uri]

    def ends_open_below(self, run: int) -> bool:
        """Whether a nested run of this one has ended, and MLflow does not know it yet."""
        beside = self.unfinished(self._states[run].spec.tracking_uri)
        return any(s.spec.parent == run and s.end is not None and not s.closed for s in beside)

    def destinations(self) -> list[tuple[str | None, str]]:
        """Tracking URIs (without passwords) in use, with a working directory each."""
        # Reversed: of several working directories that of the oldest run is taken, by each agent the same.
        return list({s.spec.tracking_uri: s.spec.cwd for s in reversed(self.all())}.items())

    def credentials(self, tracking_uri: str | None) -> str | None:
        """The `user:password` that belongs to a URI, if it was given; from memory only."""
        return self._credentials.get(tracking_uri)

    def urgent(self, run: int) -> bool:
        """Whether somebody waits for it, or it has ended."""
        state = self._states[run]
        return state.end is not None or self.waiters.waited_for(run)

    def status(self, run: int, ledger: Ledger, lag: float, metrics: MetricEnds = _NO_METRICS) -> RunStatus:
        """The status that is published to its process."""
        with self._lock:
            state = self._states[run]
            parent = state.end is not None and run in self._parents
            return status_of(state, self.waiters.settled(run), ledger, lag, metrics, parent=parent)

    # -- changing ----------------------------------------------------------------------------------------------------

    def start(self, record: Start, ring: str) -> bytes:
        """A run begins, or makes itself known again. Returns the state, to be written with the rows around it."""
        with self._lock:
            state = self._states.get(record.spec.run) or RunState.begun(record, ring)
            if state.rebuilt:
                state.spec, state.ring, state.rebuilt = record.spec, ring, False
            if state.spec.job is not None and record.spec.job is not None:
                join(state, record.spec, ring)
            self._file(state)
            state.goals = _and_then(state.goals, self._early_goals.pop(state.run, {}))
            if not record.again:  # it goes on, and so does what it prints
                state.printed = None
            self._parents.add(record.spec.parent)
            self._changed.add(state.run)
            return msgspec.json.encode(state)

    def rank(self, record: Rank, ring: str) -> bytes | None:
        """A process of a run's job says how far it is. Returns the state, to be written with the rows around it."""
        with self._lock:
            state = self._states.get(record.run)
            if state is None:
                return None
            note_rank(state, record, ring)
            self._changed.add(state.run)
            return msgspec.json.encode(state)

    def adopt(self, runs: Iterable[int]) -> bool:
        """Takes in runs for which something waits and of which nothing else is known; whether there were any."""
        with self._lock:
            unknown = [run for run in runs if run not in self._states]
            for run in unknown:
                self._file(restored(run, b"", self._stand_in))
                self.update(run)
            return bool(unknown)

    def steps(self, run: int, steps: RankSteps) -> bytes | None:
        """What the ranks of a run's job have said of steps whose statistics wait. Returns the state, to be written."""
        with self._lock:
            state = self._states.get(run)
            if state is None:
                return None
            state.rank_steps = steps
            return msgspec.json.encode(state)

    def goals(self, record: Goals) -> bytes | None:
        """What is better of a run's metrics. Returns the state, to be written with the rows around it."""
        with self._lock:
            state = self._states.get(record.run)
            if state is None:  # a child's ring may be read before that of the process which has begun the run
                if len(self._early_goals) < _MOST_EARLY:
                    self._early_goals[record.run] = _and_then(self._early_goals.get(record.run, {}), record.goals)
                return None
            state.goals = _and_then(state.goals, record.goals)
            return msgspec.json.encode(state)

    def bests(self, run: int, bests: dict[str, At]) -> bytes | None:
        """The best values of a run's metrics so far. Returns the state, to be written with the rows around it."""
        with self._lock:
            state = self._states.get(run)
            if state is None:
                return None
            state.bests = bests
            return msgspec.json.encode(state)

    def bests_written(self, run: int, time_ms: int) -> bytes | None:
        """A run's best values become metrics of that time. Returns the state, to be written with the rows around it."""
        with self._lock:
            state = self._states.get(run)
            if state is None:
                return None
            state.bests_ms = max(state.bests_ms, time_ms)
            return msgspec.json.encode(state)

    def end(self, record: End, reason: str | None = None, *, of_job: bool = False) -> bytes | None:
        """A run ended. The first end counts, but one that was inferred gives way to one that was reported.

        And that of a whole job (`of_job`) counts more than that of the rank which has begun the run.

        Returns the state, to be written with the rows around it, or None when nothing changed.
        """
        with self._lock:
            state = self._states.get(record.run)
            if state is None:
                return None
            if state.end is not None and not of_job and (reason is not None or state.end_reason is None):
                # The same again: it comes back when the commit failed with which its state was to be written.
                return msgspec.json.encode(state) if (state.end, state.end_reason) == (record, reason) else None
            self.waiters.end(record.run)  # first: who sees the end, unlocked, sees that it is to wait
            self._advance(state, Event.ENDED)
            state.end, state.end_reason = record, reason
            self._changed.add(state.run)
            return msgspec.json.encode(state)

    def monitor(self, record: Monitor) -> bytes | None:
        """A system monitor of a run begins or ends. Returns the state, to be written with the rows around it."""
        with self._lock:
            state = self._states.get(record.run)
            if state is None:
                return None
            others = [other for other in state.monitors if other.token != record.token]
            state.monitors = [*others, record] if record.on else others
            return msgspec.json.encode(state)

    def sampled(self, run: int, samples: dict[str, Samples]) -> None:
        """How far a run's samples have come, for the next agent if this one is killed."""
        with self._lock:
            if (state := self._states.get(run)) is not None:
                self.update(run, samples=state.samples | {key: finite(each) for key, each in samples.items()})

    def model(self, run: int, token: str, outcome: ModelOutcome) -> None:
        """What became of a model of a run."""
        with self._lock:
            if (state := self._states.get(run)) is not None:
                self.update(run, models={**state.models, token: outcome})

    def remember(self, credentials: dict[str, str]) -> None:
        """Credentials by URI that an earlier agent had been given."""
        with self._lock:
            self._credentials.update(credentials)

    def update(self, run: int, **changes: Any) -> None:
        """Changes fields of a run's state and writes it. How far it is changes by `advance` alone.

        Raises:
            ValueError: One of the fields is part of the run's phase.
        """
        with self._lock:
            if (state := self._states.get(run)) is not None:
                state.change(**changes)
                self._write(state)

    def advance(self, run: int, event: Event, *, gone: str | None = None, reported: End | None = None) -> bool:
        """Something has happened to a run: changes its phase and writes it. An end comes by `end`.

        `LOST` comes with the reason why it is `gone`, `REPORTED` with the end that was `reported` to MLflow. False, and
        nothing has changed, where that cannot happen in the phase that the run has by now, or its end is another one.
        """
        with self._lock:
            state = self._states.get(run)
            if state is None or (reported is not None and state.end != reported):
                return False
            if not self._advance(state, event, gone):
                return False
            self._write(state)
            return True

    def note_last(self, last_ns: dict[int, int]) -> None:
        """Times of the last metrics calls; in memory, written with the next change."""
        with self._lock:
            for run, at in last_ns.items():
                if (state := self._states.get(run)) is not None:
                    state.last_ns = max(state.last_ns, at)
                    self._advance(state, Event.CAME)
                    self._changed.add(run)

    def reopen(self, runs: Iterable[int]) -> list[tuple[int, bytes]]:
        """Something came for these runs. Returns the states of those that are closed, to be written with it."""
        reopened = []
        with self._lock:
            for run in set(runs):
                if (state := self._states.get(run)) is not None:
                    self._advance(state, Event.CAME)
                    self._changed.add(run)
                    if state.closed:
                        reopened.append((run, msgspec.json.encode(state)))
        return reopened

    def notice(self, run: int, notice: Notice | str) -> bool:
        """Adds a notice for the user of a run, once; whether it is new."""
        with self._lock:
            state = self._states.get(run)
            if state is None or not note(state.notices, state.topics, notice):
                return False
            self._changed.add(run)
            return True

    def trouble(
        self, tracking_uri: str | None, problem: str | None, retry_at: float = 0, lacks: str | None = None
    ) -> None:
        """What delivery to a destination stumbles over (None: works again). In memory only."""
        problem = None if problem is None else plain(problem, LONGEST)
        retry_at = to_finite(retry_at)
        with self._lock:
            for state in self.unfinished(tracking_uri):
                if (state.problem, state.retry_at) != (problem, retry_at):
                    state.problem, state.retry_at, state.lacks = problem, retry_at, lacks
                    self._changed.add(state.run)

    def settle_marks(self, first_waiting: Callable[[int], int | None]) -> bool:
        """Answers those who wait for what is no longer there; whether there were any."""
        with self._lock:
            return self.waiters.settle(self._states, first_waiting, self._changed)

    def take_changed(self) -> list[int]:
        """Runs whose status should be published."""
        with self._lock:
            changed, self._changed = self._changed & self._states.keys(), set()
            return sorted(changed)

    def touch(self, run: int) -> None:
        """A run's ledger changed."""
        with self._lock:
            self._changed.add(run)

    def _advance(self, state: RunState, event: Event, gone: str | None = None) -> bool:
        """Changes a run's phase, if the event can happen in it."""
        possible = state.advance(event, gone)
        self._file(state)
        return possible

    def _file(self, state: RunState) -> None:
        self._states[state.run] = state
        if state.finalized:
            self._unfinished.pop(state.run, None)
        else:
            self._unfinished[state.run] = state

    def _write(self, state: RunState) -> None:
        self._changed.add(state.run)
        # This lock and then the spool's, never the other way round: the spool knows nothing of the book.
        self._save(state.run, msgspec.json.encode(state))


def _and_then(goals: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """What is said once more counts as said last."""
    return {**{key: goal for key, goal in goals.items() if key not in more}, **more}
