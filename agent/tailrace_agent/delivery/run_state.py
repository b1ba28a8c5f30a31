"""What an agent knows of a run, and writes into the spool: fields are only added, with defaults."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace_agent.delivery.run_phase import PHASE_FIELDS, Event, Phase, after, flags_of, phase_of
from tailrace_agent.ipc.curves import At
from tailrace_agent.ipc.notices import Topic
from tailrace_agent.ipc.records import End, LogCost, ModelOutcome, Monitor, RunSpec, Samples, Start
from tailrace_agent.ipc.status import MetricEnds, RunStatus
from tailrace_agent.ipc.stored import to_finite
from tailrace_agent.ipc.tags import LEDGER_TAG
from tailrace_agent.ledger import Ledger
from tailrace_agent.sinks.base import RunRef
from tailrace_agent.spool.rank_rows import RankSteps

__all__ = ["Description", "Printed", "RankState", "RunState", "finite", "ledger_tag", "status_of"]


class Description(msgspec.Struct, frozen=True):
    """Where a run comes from, as it was gathered: tags, the staged directory of files, and whether MLflow has them.

    `tagged`: it has the tags, with which the run was created. `done`: it has all.
    """

    tags: dict[str, str]
    staged: str | None
    done: bool = False
    tagged: bool = False


class Printed(msgspec.Struct, frozen=True):
    """What a run has printed, as it is on its way to MLflow.

    Attributes:
        staged: A directory of files, as they are to lie among its artifacts; None where there are none.
        tags: The last words of those that died.
        last: Nothing more comes.
        done: MLflow has it; or has it not, and will not be asked again.
        failed: It has it not.
    """

    staged: str | None = None
    tags: dict[str, str] = {}
    last: bool = False
    done: bool = False
    failed: bool = False


class RankState(msgspec.Struct, kw_only=True):
    """One process of a job that logs to a run on this machine, as it was started last.

    Attributes:
        rank: Which one.
        ring: Its ring.
        pid: Its process id.
        started: When it began, see `runtime.processes`.
        attempt: How often the job had been started anew by then.
        state: `began`, `done`, `failed`, or `gone`: its process is.
        time_ms: Since when.
        detail: What it failed of, or what became of its process.
        signal: What killed its process, where that is known.
        code: The exit code of its process, where that is known.
        modes: What becomes of its metrics, by pattern.
    """

    rank: int
    ring: str
    pid: int
    started: int = 0
    attempt: int = 0
    state: str = "began"
    time_ms: int = 0
    detail: str = ""
    signal: int | None = None
    code: int | None = None
    modes: dict[str, str] = {}


def ledger_tag(spec: RunSpec) -> str:
    """The tag for the ledger of a session that comes to a run with this: another one for each session of a job.

    Example:
        >>> from tailrace_agent.ipc.records import JobPart
        >>> part = JobPart(key="a", node="node3", several_nodes=True, attempt=2)
        >>> ledger_tag(RunSpec(run=1, start_time=0, cwd="/", job=part))
        'tailrace.ledger.node3.2'
    """
    job = spec.job
    if job is None or (spec.owned and not job.attempt):
        return LEDGER_TAG
    return f"{LEDGER_TAG}.{job.node}" + (f".{job.attempt}" if job.attempt else "")


class RunState(msgspec.Struct, kw_only=True):
    """One run.

    Attributes:
        spec: What was requested.
        ring: The ring of the process that owns it.
        ref: MLflow's side of it, once created.
        attempts: How often its creation was tried.
        end: How it ended. This, and whatever else `run_phase` names, changes by `advance` alone.
        end_reason: Why, when the program reported none.
        explained: MLflow knows the reason.
        closed: MLflow knows the end.
        finalized: Everything settled, ledger stored.
        gone: Why MLflow will never take anything for it.
        refused: Why its store cannot be used.
        last_ns: Time of its last metrics call.
        notices: Lines for its user, and their topics, see `ipc.notices`.
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
        shared: A tag in MLflow records that this session writes to a run to which others have written, too.
        rebuilt: Its record could not be read, and `spec` stands in for what was requested, until its program sends that
            again.
        ranks: The processes of its job on this machine.
        anew: They were started anew, and what fell before is still with the run in MLflow.
        rank_steps: What they have said of steps whose statistics are not complete, and which are out.
        ledger_tag: Under which tag this session stores its ledger: it stays when nodes change places.
        ledger_own: The same, once it is known that no other session's ledger is there.
        claim: By what this session claims the name of its node in the run, see `node_names`.
        claim_stored: It has done so.
        stop: What somebody has said who asked its program to end it; None while nobody has.
        goals: What is better of which metrics, by pattern, as its program has said: see `goals`.
        bests: The best value so far of each metric that has one.
        bests_ms: The time under which they were written as metrics last; 0: not yet.
        printed: What it has printed, as far as that was staged.
        printed_as: What the files of a job's rank are called instead, where MLflow has such of an earlier session, by
            rank; empty where it has none. See `printed_names`.
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
    ranks: list[RankState] = []
    anew: bool = False
    rank_steps: RankSteps | None = None
    ledger_tag: str = ""
    ledger_own: str = ""
    claim: str = ""
    claim_stored: bool = False
    stop: str | None = None
    goals: dict[str, str] = {}
    bests: dict[str, At] = {}
    bests_ms: int = 0
    printed: Printed | None = None
    printed_as: dict[int, str] = {}

    @classmethod
    def begun(cls, record: Start, ring: str) -> RunState:
        """A run of which nothing was known; what an earlier state knew is lost where it makes itself known again."""
        # It may be in MLflow already, with a note of its extremes: one attempt has it looked for before it is created.
        again = record.again
        tag = ledger_tag(record.spec)
        return cls(spec=record.spec, ring=ring, attempts=int(again), partial=again, noted=again, ledger_tag=tag)

    @property
    def described(self) -> bool:
        """Whether nothing of where it comes from is still to be stored."""
        return self.spec.facts is None or (self.description is not None and self.description.done)

    @property
    def printed_out(self) -> bool:
        """Whether nothing of what it prints is still to be stored."""
        return not self.spec.console or (self.printed is not None and self.printed.last and self.printed.done)

    @property
    def steps_before(self) -> dict[str, int]:
        """By how much the steps of the system monitor's metrics are later, by name, in a run that had some before."""
        groups = (self.ref.next_steps if self.ref is not None else None) or {}
        if not groups:
            return {}
        # By whole names: what the program logs itself under the same prefix has steps of its own.
        return {
            name: step
            for samples in self.samples.values()
            for name in samples.names
            if (step := groups.get(name.partition("/")[0]))
        }

    @property
    def run(self) -> int:
        """tailrace's id."""
        return self.spec.run

    @property
    def status(self) -> str:
        """RUNNING until the end is known."""
        return self.end.status if self.end else "RUNNING"

    @property
    def phase(self) -> Phase:
        """How far it is."""
        return phase_of(ended=self.end is not None, closed=self.closed, finalized=self.finalized, gone=bool(self.gone))

    def change(self, **changes: Any) -> None:
        """Changes fields that are no part of the phase. The run book calls it, locked.

        Raises:
            ValueError: One of them does.
        """
        if phase := PHASE_FIELDS & changes.keys():
            raise ValueError(f"{', '.join(sorted(phase))}: such fields of a run change with its phase, by an event")
        for name, value in changes.items():
            setattr(self, name, value)

    def advance(self, event: Event, gone: str | None = None) -> bool:
        """Changes the phase, and nothing where the event cannot happen in this one. The run book calls it, locked.

        Args:
            event: What has happened.
            gone: Why MLflow takes nothing more for it, where it is `LOST`.
        """
        then = after(self.phase, event)
        if then is None:
            return False
        for name, value in flags_of(event, then).items():
            setattr(self, name, value)
        if event is Event.LOST:
            self.gone = gone
        return True


def finite(samples: Samples) -> Samples:
    """As JSON can hold them: infinities and NaN would come back as `null`."""
    totals = {name: to_finite(total) for name, total in samples.totals.items()}
    return msgspec.structs.replace(samples, totals=totals)


def status_of(
    state: RunState, settled: dict[str, int], ledger: Ledger, lag: float, metrics: MetricEnds, *, parent: bool
) -> RunStatus:
    """The status that is published to the process of a run.

    Args:
        state: The run.
        settled: The last token of each ring that was answered.
        ledger: Its counts.
        lag: Age of its oldest metrics call that waits, in seconds.
        metrics: How its metrics ended, once it has.
        parent: Whether it has ended, and there were runs below it.
    """
    ref = state.ref
    return RunStatus(
        run=state.run,
        run_id=ref.run_id if ref else None,
        run_name=ref.run_name if ref else state.spec.run_name,
        experiment_id=ref.experiment_id if ref else None,
        url=ref.url if ref else None,
        status=state.status,
        started=state.spec.start_time / 1000,
        closed=state.closed,
        parent=parent,
        refused=state.refused,
        gone=state.gone,
        problem=state.problem,
        lacks=state.lacks,
        retry_at=state.retry_at,
        ledger=ledger,
        settled=settled,
        notices=list(state.notices),
        topics=list(state.topics),
        lag=lag,
        cost=state.end.cost if state.end else LogCost(),
        models=dict(state.models),
        metrics=metrics,
        stop=state.stop,
    )
