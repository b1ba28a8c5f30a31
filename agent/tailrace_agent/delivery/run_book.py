"""The run book: every run of a session, its way from asked-for to closed, and who waits for it.

State changes under one lock and is written to the spool before the lock is released, so that what an agent knew, its
successor knows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from tailrace_agent.ipc.notices import LONGEST, Notice, Topic, note
from tailrace_agent.ipc.records import End, LogCost, ModelOutcome, Monitor, RunSpec, Samples, Start, run_hex
from tailrace_agent.ipc.status import RunStatus, SessionInfo
from tailrace_agent.ipc.stored import UNREADABLE, converted, to_finite
from tailrace_agent.ledger import Ledger
from tailrace_agent.settings.uris import resolve_uri
from tailrace_agent.sinks.base import RunRef
from tailrace_agent.text.quoting import plain

__all__ = ["Description", "Mark", "RunBook", "RunState", "restored", "stand_in"]

_PASSING = {"problem", "retry_at", "lacks"}
"""Fields that say how things stand, and are soon said anew."""
_DECOR = {"tags", "description", "facts", "git_diff", "run_name"}
"""Fields of a spec without which the run is still the one that was meant."""
_LOST = (
    "the record of this run could not be read whole (a damaged disk, or another version of tailrace): what is there of "
    "it is delivered"
)


class Description(msgspec.Struct, frozen=True):
    """Where a run comes from, as it was gathered: tags, the staged directory of files, and whether MLflow has them."""

    tags: dict[str, str]
    staged: str | None
    done: bool = False


class RunState(msgspec.Struct, kw_only=True):
    """One run.

    Attributes:
        spec: What was asked for.
        ring: The ring of the process that owns it.
        ref: MLflow's side of it, once created.
        attempts: How often its creation was tried.
        end: How it ended.
        end_reason: Why, when the program did not say.
        explained: MLflow knows the reason.
        closed: MLflow knows the end.
        finalized: Everything settled, ledger stored.
        gone: Why MLflow will never take anything for it.
        refused: Why its store cannot be used.
        last_ns: Time of its last metrics call.
        notices: What its user is to be told, and the topics of that, see `ipc.notices`.
        problem: What delivery last stumbled over, and what another environment may have, see `Unavailable.lacks`.
        retry_at: When delivery tries again (epoch seconds).
        monitors: The system monitors that it has, for the next agent if this one is killed.
        samples: How far their samples have come, by prefix and node.
        description: Where it comes from, once that is gathered.
        alerts: How many were raised.
        models: What became of its models, by `ModelSpec.token`.
        partial: Somebody knew it before this state did, so what was delivered then is not counted here: an earlier
            spool was damaged, or deleted.
        noted: Its extremes may be noted with it in MLflow, see `extremes`.
        shared: MLflow was told that this session writes to a run that it has not created.
        rebuilt: Its record could not be read, and `spec` stands in for what was asked for, until its program says that
            again.
    """

    spec: RunSpec
    ring: str
    ref: RunRef | None = None
    attempts: int = 0
    end: End | None = None
    end_reason: str | None = None
    explained: bool = False
    closed: bool = False
    finalized: bool = False
    gone: str | None = None
    refused: str | None = None
    last_ns: int = 0
    notices: list[str] = []
    topics: list[Topic] = []
    problem: str | None = None
    lacks: str | None = None
    retry_at: float = 0.0
    monitors: list[Monitor] = []
    samples: dict[str, Samples] = {}
    description: Description | None = None
    alerts: int = 0
    models: dict[str, ModelOutcome] = {}
    partial: bool = False
    noted: bool = False
    shared: bool = False
    rebuilt: bool = False

    @property
    def described(self) -> bool:
        """Whether nothing of where it comes from is still to be stored."""
        return self.spec.facts is None or (self.description is not None and self.description.done)

    @property
    def run(self) -> int:
        """tailrace's id."""
        return self.spec.run

    @property
    def status(self) -> str:
        """RUNNING until the end is known."""
        return self.end.status if self.end else "RUNNING"


class Mark(msgspec.Struct):
    """Somebody waits: `token` of `ring` is settled when no block up to `barrier` waits any more."""

    ring: str
    token: int
    barrier: int | None = None


def _nowhere(run: int) -> RunSpec:
    return RunSpec(run=run, start_time=0, cwd="/", owned=False)


class RunBook:
    """All runs of a session.

    Args:
        states: Encoded states by run, from the spool; empty for a run of which there are blocks and no state.
        save: Writes an encoded state to the spool.
        stand_in: What to take for the spec of a run whose own cannot be read.

    Thread safety: every method from any thread.
    """

    def __init__(
        self,
        states: Mapping[int, bytes],
        save: Callable[[int, bytes], None],
        stand_in: Callable[[int], RunSpec] = _nowhere,
    ) -> None:
        loaded = [restored(run, encoded, stand_in) for run, encoded in states.items()]
        loaded.sort(key=lambda state: state.spec.start_time)
        self._states = {state.run: state for state in loaded}
        self._save, self._stand_in = save, stand_in
        self._lock = threading.RLock()
        self._marks: dict[int, list[Mark]] = {}
        self._settled: dict[int, dict[str, int]] = {}
        self._end_barriers: dict[int, int | None] = {s.run: None for s in loaded if s.end is not None and not s.closed}
        self._stalled: dict[int, float] = {}
        self._credentials: dict[str | None, str] = {}
        self._changed: set[int] = set(self._states)
        self._told: set[str] = set()

    @contextmanager
    def steady(self) -> Iterator[None]:
        """While states that were encoded are being written, no newer one is written before them."""
        with self._lock:
            yield

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, run: int) -> RunState | None:
        """A run's state; only `update` changes it."""
        return self._states.get(run)

    def all(self) -> list[RunState]:
        """Every run, oldest first."""
        with self._lock:
            return list(self._states.values())

    def unfinished(self, tracking_uri: str | None) -> list[RunState]:
        """Runs of a destination that still want something."""
        return [s for s in self.all() if s.spec.tracking_uri == tracking_uri and not s.finalized]

    def ends_open_below(self, run: int) -> bool:
        """Whether a nested run of this one has ended, and MLflow does not know it yet."""
        parent = self._states[run].spec
        return any(
            state.end is not None and not state.closed and state.spec.tracking_uri == parent.tracking_uri
            for state in self.all()
            if state.spec.parent == run
        )

    def destinations(self) -> list[tuple[str | None, str]]:
        """Tracking URIs (without passwords) in use, with a working directory each."""
        return list({s.spec.tracking_uri: s.spec.cwd for s in reversed(self.all())}.items())

    def credentials(self, tracking_uri: str | None) -> str | None:
        """The `user:password` that belongs to a URI, if it was told; from memory only."""
        return self._credentials.get(tracking_uri)

    def urgent(self, run: int) -> bool:
        """Whether somebody waits for it, or it has ended."""
        state = self._states[run]
        return state.end is not None or bool(self._marks.get(run))

    def status(self, run: int, ledger: Ledger, lag: float) -> RunStatus:
        """What its process is told."""
        with self._lock:
            state = self._states[run]
            return RunStatus(
                run=run,
                run_id=ref.run_id if (ref := state.ref) else None,
                run_name=ref.run_name if ref else state.spec.run_name,
                experiment_id=ref.experiment_id if ref else None,
                url=ref.url if ref else None,
                status=state.status,
                started=state.spec.start_time / 1000,
                closed=state.closed,
                parent=state.end is not None and any(each.spec.parent == run for each in self._states.values()),
                refused=state.refused,
                gone=state.gone,
                problem=state.problem,
                lacks=state.lacks,
                retry_at=state.retry_at,
                ledger=ledger,
                settled=dict(self._settled.get(run, {})),
                notices=list(state.notices),
                topics=list(state.topics),
                lag=lag,
                cost=state.end.cost if state.end else LogCost(),
                models=dict(state.models),
            )

    # -- changing ----------------------------------------------------------------------------------------------------

    def start(self, record: Start, ring: str) -> bytes:
        """A run begins, or makes itself known again. Returns the state, to be written with the rows around it."""
        with self._lock:
            fresh = RunState(
                spec=record.spec, ring=ring, attempts=int(record.again), partial=record.again, noted=record.again
            )
            state = self._states.setdefault(record.spec.run, fresh)
            if state.rebuilt:
                state.spec, state.ring, state.rebuilt = record.spec, ring, False
            self._changed.add(state.run)
            return msgspec.json.encode(state)

    def adopt(self, runs: Iterable[int]) -> bool:
        """Takes in runs for which something waits and of which nothing else is known; whether there were any."""
        with self._lock:
            unknown = [run for run in runs if run not in self._states]
            for run in unknown:
                self._states[run] = restored(run, b"", self._stand_in)
                self.update(run)
            return bool(unknown)

    def end(self, record: End, reason: str | None = None) -> bytes | None:
        """A run ended. The first end counts, but one that was inferred gives way to one that was said.

        Returns the state, to be written with the rows around it, or None when nothing changed.
        """
        with self._lock:
            state = self._states.get(record.run)
            if state is None:
                return None
            if state.end is not None and (reason is not None or state.end_reason is None):
                # The same again: it comes back when the commit failed with which its state was to be written.
                return msgspec.json.encode(state) if (state.end, state.end_reason) == (record, reason) else None
            state.end, state.end_reason, state.closed, state.finalized = record, reason, False, False
            self._end_barriers[record.run] = None
            self._changed.add(state.run)
            return msgspec.json.encode(state)

    def monitor(self, record: Monitor) -> bytes | None:
        """A system monitor of a run begins or ends. Returns the state, to be written with the rows around it."""
        with self._lock:
            state = self._states.get(record.run)
            if state is None:
                return None
            state.monitors = [other for other in state.monitors if other.token != record.token]
            if record.on:
                state.monitors.append(record)
            return msgspec.json.encode(state)

    def sampled(self, run: int, samples: dict[str, Samples]) -> None:
        """How far a run's samples have come, for the next agent if this one is killed."""
        state = self._states.get(run)
        if state is not None:
            finite = {
                key: Samples(each.count, {name: to_finite(total) for name, total in each.totals.items()})
                for key, each in samples.items()
            }
            self.update(run, samples={**state.samples, **finite})

    def model(self, run: int, token: str, outcome: ModelOutcome) -> None:
        """What became of a model of a run."""
        state = self._states.get(run)
        if state is not None:
            self.update(run, models={**state.models, token: outcome})

    def remember(self, credentials: dict[str, str]) -> None:
        """Credentials by URI that an earlier agent had been told."""
        with self._lock:
            self._credentials.update(credentials)

    def update(self, run: int, **changes: Any) -> None:
        """Changes fields of a run's state and writes it."""
        with self._lock:
            state = self._states.get(run)
            if state is None:
                return
            for name, value in changes.items():
                setattr(state, name, value)
            self._changed.add(run)
            self._save(run, msgspec.json.encode(state))

    def note_last(self, last_ns: dict[int, int]) -> None:
        """Times of the last metrics calls; in memory, written with the next change."""
        for run, at in last_ns.items():
            state = self._states.get(run)
            if state is not None:
                state.last_ns = max(state.last_ns, at)
                state.finalized = False
                self._changed.add(run)

    def reopen(self, runs: Iterable[int]) -> list[tuple[int, bytes]]:
        """Something came for these runs. Returns the states of those that are closed, to be written with it."""
        reopened = []
        with self._lock:
            for run in set(runs):
                state = self._states.get(run)
                if state is not None:
                    state.finalized = False
                    self._changed.add(run)
                    if state.closed:
                        reopened.append((run, msgspec.json.encode(state)))
        return reopened

    def notice(self, run: int, said: Notice | str) -> bool:
        """Something to tell the user of a run, once; whether it is new."""
        with self._lock:
            state = self._states.get(run)
            if state is None or not note(state.notices, state.topics, said):
                return False
            self._changed.add(run)
            return True

    def trouble(
        self, tracking_uri: str | None, problem: str | None, retry_at: float = 0, lacks: str | None = None
    ) -> None:
        """What delivery to a destination stumbles over (None: works again). In memory only."""
        problem = None if problem is None else plain(problem, LONGEST)
        retry_at = to_finite(retry_at)
        for state in self.unfinished(tracking_uri):
            if (state.problem, state.retry_at) != (problem, retry_at):
                state.problem, state.retry_at, state.lacks = problem, retry_at, lacks
                self._changed.add(state.run)

    # -- who waits ---------------------------------------------------------------------------------------------------

    def mark(self, run: int, ring: str, token: int) -> None:
        """Somebody waits from now on."""
        with self._lock:
            self._marks.setdefault(run, []).append(Mark(ring, token))
            self._changed.add(run)

    def set_barriers(self, last_id: int) -> None:
        """Every ring was read to its end after the marks came: what they wait for has an id of at most `last_id`.

        The same goes for runs that have ended: what was accepted before their end is there.
        """
        with self._lock:
            for run, barrier in self._end_barriers.items():
                if barrier is None:
                    self._end_barriers[run] = last_id
            for marks in self._marks.values():
                for mark in marks:
                    if mark.barrier is None:
                        mark.barrier = last_id

    @property
    def unset_barriers(self) -> bool:
        """Whether a mark, or the end of a run, has no barrier yet."""
        with self._lock:
            ends = any(barrier is None for barrier in self._end_barriers.values())
            return ends or any(mark.barrier is None for marks in self._marks.values() for mark in marks)

    def end_barrier(self, run: int) -> int | None:
        """The last block that was accepted before the run's end; None while the rings are still being read for it."""
        return self._end_barriers.get(run, 0)

    def upload_failed(self, run: int, now: float) -> None:
        """An artifact of the run did not get through (monotonic seconds)."""
        self._stalled.setdefault(run, now)

    def uploads_work(self, run: int) -> None:
        """An artifact of the run got through."""
        self._stalled.pop(run, None)

    def uploads_stalled_since(self, run: int) -> float | None:
        """Since when no artifact of the run has got through; None while they do, or nobody has tried."""
        return self._stalled.get(run)

    @property
    def awaited(self) -> bool:
        """Whether somebody waits."""
        return bool(self._marks)

    def settle_marks(self, first_waiting: Callable[[int], int | None]) -> bool:
        """Answers those who wait for what is no longer there; whether there were any."""
        answered = False
        with self._lock:
            for run in list(self._marks):
                state = self._states.get(run)
                if state is None or (state.end is not None and not (state.closed or state.refused or state.gone)):
                    continue
                first = first_waiting(run)
                marks = self._marks.pop(run)
                waiting = []
                for mark in marks:
                    if mark.barrier is None or (first is not None and first <= mark.barrier):
                        waiting.append(mark)
                    else:
                        tokens = self._settled.setdefault(run, {})
                        tokens[mark.ring] = max(mark.token, tokens.get(mark.ring, 0))
                        self._changed.add(run)
                        answered = True
                if waiting:
                    self._marks[run] = waiting
        return answered

    def take_changed(self) -> list[int]:
        """Runs whose status should be published."""
        with self._lock:
            changed, self._changed = self._changed & self._states.keys(), set()
            return sorted(changed)

    def touch(self, run: int) -> None:
        """A run's ledger changed."""
        with self._lock:
            self._changed.add(run)


def restored(run: int, encoded: bytes, stand_in: Callable[[int], RunSpec] = _nowhere) -> RunState:
    """A run's state from its bytes, whatever they are: what cannot be read of it is as if it had not been written.

    Args:
        run: tailrace's id, which the spool has apart from the bytes.
        encoded: As they were found.
        stand_in: What to take for the spec where that is lost.
    """
    try:
        state = msgspec.json.decode(encoded, type=RunState)
        if state.run == run:
            return state
    except UNREADABLE:
        pass
    raw: dict[str, Any] = {}
    with suppress(*UNREADABLE):
        raw = msgspec.json.decode(encoded, type=dict[str, Any])
    spec, rebuilt = _spec(raw.get("spec"), run, stand_in)
    ring = raw.get("ring") if isinstance(raw.get("ring"), str) else ""
    read = converted({**raw, "spec": msgspec.to_builtins(spec), "ring": ring}, RunState)
    state = read.value
    if rebuilt or set(read.lost) - _PASSING:
        # An attempt to create it may be among what is lost: the run is looked for first. So may counts and extremes be.
        state.attempts, state.partial, state.noted = max(1, state.attempts), True, True
        state.notices = [*state.notices, _LOST]
    state.rebuilt = state.rebuilt or rebuilt
    return state  # type: ignore[no-any-return]


def stand_in(session: SessionInfo, run: int) -> RunSpec:
    """What a run of this session most likely is: nobody's, so that one that is found keeps the status that it has."""
    settings = session.settings
    return RunSpec(
        run=run,
        start_time=int(session.created * 1000),
        cwd=session.cwd,
        tracking_uri=resolve_uri(settings.tracking_uri, session.cwd) if settings.tracking_uri else None,
        experiment_name=settings.experiment_name,
        run_name=f"recovered-{run_hex(run)[:8]}",
        owned=False,
    )


def _spec(told: object, run: int, stand_in: Callable[[int], RunSpec]) -> tuple[RunSpec, bool]:
    """What is left of a spec, and whether so much is lost that it is not the one that was meant."""
    known: dict[str, Any] = {}
    lost: set[str] = set()
    for field in msgspec.structs.fields(RunSpec):
        try:
            known[field.name] = msgspec.convert(told[field.name], field.type)  # type: ignore[index]
        except UNREADABLE:
            lost.add(field.name)
        except (TypeError, LookupError):  # no object, or an older one
            if field.required:
                lost.add(field.name)
    if known.get("run") != run:
        lost.add("run")
    return msgspec.structs.replace(stand_in(run), **{**known, "run": run}), bool(lost - _DECOR)
