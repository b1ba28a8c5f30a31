"""What the agent publishes to the training process: small files in shared memory, each replaced as a whole.

A reader sees the old state or the new one, never a mixture. One file a run (`run-<id>.status`) and one for the agent
(`agent.status`); writing takes about 50 µs, and only when something changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from tailrace_agent.files import whole_files
from tailrace_agent.files.ownership import read_own
from tailrace_agent.ipc import stored
from tailrace_agent.ipc.notices import Notice, Topic, paired
from tailrace_agent.ipc.records import LogCost, ModelOutcome, run_hex
from tailrace_agent.ledger import Ledger
from tailrace_agent.settings.settings import Settings
from tailrace_agent.text.utf8 import encoded

__all__ = ["AgentStatus", "MetricEnd", "MetricEnds", "RunStatus", "SessionInfo", "read", "run_file", "write"]


class MetricEnd(msgspec.Struct, frozen=True):
    """What a person wants to know of a metric when its run has ended.

    Attributes:
        key: Its name.
        last: Its last value.
        line: Some of its values, evenly spread over its steps.
        best: Its best value; None where nothing says what is better.
        step: The first step that had it.
    """

    key: str
    last: float
    line: list[float]
    best: float | None = None
    step: int = 0


class MetricEnds(msgspec.Struct, frozen=True):
    """The metrics of a run that has ended: some of them, and how many more there are."""

    shown: list[MetricEnd] = []
    more: int = 0


class RunStatus(msgspec.Struct, kw_only=True):
    """A run as the agent sees it.

    Attributes:
        run: tailrace's id.
        run_id: MLflow's id, once created.
        run_name: MLflow's name of the run.
        experiment_id: MLflow's id of its experiment.
        url: Where to look at it, for stores with a server.
        status: RUNNING, FINISHED, FAILED or KILLED.
        started: When it began (seconds since the epoch), as its program recorded it; 0 where an older agent wrote this.
        closed: MLflow knows how the run ended.
        parent: Whether it has ended, and runs were begun below it, by whichever process.
        refused: Why this run's store cannot be used at all.
        gone: Why MLflow will never take anything more for this run.
        problem: What delivery last stumbled over, or None once it works again.
        lacks: What another environment may have for it, see `Unavailable.lacks`.
        retry_at: When it tries again (seconds since the epoch).
        ledger: What became of everything.
        settled: For each ring, the last flush token up to which nothing is on the way any more.
        notices: Lines for the user, each shown once, in order.
        topics: The topic for which each is shown once; shorter, or none, from an older agent. See `all_notices`.
        lag: Seconds between the oldest pending point's call and now; 0 when nothing is pending.
        cost: What `log()` cost, as the training process reported it at the end.
        models: What became of its models so far, by `ModelSpec.token`.
        metrics: How its metrics ended, once it has.
        stop: What somebody has said who asked its program to end it; None while nobody has.
        step: The largest step that its program has logged at; None before the first one, or from an older agent.
        computing: Points that wait for a GPU, which has not computed them; pending in the ledger.
    """

    run: int
    run_id: str | None = None
    run_name: str | None = None
    experiment_id: str | None = None
    url: str | None = None
    status: str = "RUNNING"
    started: float = 0.0
    closed: bool = False
    parent: bool = False
    refused: str | None = None
    gone: str | None = None
    problem: str | None = None
    lacks: str | None = None
    retry_at: float = 0.0
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    settled: dict[str, int] = {}
    notices: list[str] = []
    topics: list[Topic] = []
    lag: float = 0.0
    cost: LogCost = LogCost()
    models: dict[str, ModelOutcome] = {}
    metrics: MetricEnds = MetricEnds()
    stop: str | None = None
    step: int | None = None
    computing: int = 0

    @property
    def all_notices(self) -> list[Notice]:
        """The notices, each with its topic."""
        return paired(self.notices, self.topics)

    @property
    def over(self) -> bool:
        """Whether MLflow knows how it ended, or will never have it."""
        return self.closed or self.refused is not None


class AgentStatus(msgspec.Struct, kw_only=True):
    """The agent itself: process id, host (`process` or `thread`), start and last sign of life (epoch seconds).

    `problem` is what keeps it from taking over what the rings hold (a full disk), or None; `metrics_url` is where
    Prometheus finds the metrics, if it serves them; `group` is a process's own process group, 0 for a thread.
    """

    pid: int
    host: str
    started: float
    seen: float
    pending: int = 0
    spool_bytes: int = 0
    problem: str | None = None
    metrics_url: str | None = None
    group: int = 0


class SessionInfo(msgspec.Struct, kw_only=True):
    """What a session's directory records of it (`session.json`). No secrets.

    Attributes:
        id: Name of the directory.
        hostname: Where it runs; rings of another host's session cannot be read here.
        boot: The kernel's boot id: after a reboot the rings are gone.
        pid: The process that began it.
        created: Epoch seconds.
        program: What ran, for people.
        cwd: Its working directory.
        shared: Directory with rings, locks and status files.
        unguessable: Its name is made from it where somebody else has taken that; "" where an older version wrote this.
        settings: Settings in force, the URI without its password.
    """

    id: str
    hostname: str
    boot: str
    pid: int
    created: float
    program: str
    cwd: str
    shared: str
    settings: Settings
    unguessable: str = ""


T = TypeVar("T")


def run_file(run: int) -> str:
    """Name of a run's status file."""
    return f"run-{run_hex(run)}.status"


def write(path: Path, value: object, *, durable: bool = False) -> None:
    """Replaces the file as a whole; with `durable` so that a power cut leaves one of the two, too.

    Raises:
        OSError: It cannot be written; what was there before still is.
    """
    # `encoded`, since a path or an error may hold bytes that are no UTF-8, at which msgspec raises.
    whole_files.replace(path, encoded(msgspec.json.encode, value), durable=durable)


def read(path: Path, type_: type[T]) -> T | None:
    """The file's value, or None while there is none (or it cannot be read as one, or is not this user's).

    What another version wrote into a single field, or a damaged disk gives back for it, costs that field alone.
    """
    try:
        return stored.read(read_own(path), type_)
    except OSError:
        return None
