"""A node of a simulated cluster: its launcher, its ranks with real rings, and its agent, a `Pipeline`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from simulation.clock import Clock
from simulation.faults import Killed
from simulation.journal import mark_of
from simulation.network import ANSWERS
from tailrace._runs import job_runs
from tailrace_agent.ipc import records as records_module
from tailrace_agent.ipc.job_dir import JobDir, Owner
from tailrace_agent.ipc.records import End, Point, RunSpec, Start, encode
from tailrace_agent.ipc.ring_writer import RingWriter
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.runtime.job import Job, find_job
from tailrace_agent.runtime.processes import Fate, Process
from tailrace_agent.settings.settings import Settings
from tailrace_agent.sinks.base import Sink

if TYPE_CHECKING:
    from simulation.cluster import Cluster

__all__ = ["Node", "Processes", "Rank"]

_KEEPER = 0.3
_LINGER = 1.0
_REQUESTS = (
    "open_run",
    "log_batch",
    "delete_tags",
    "end_run",
    "discard_twins",
    "find_runs",
    "texts_of",
    "count_metrics",
)
_MODES = {"grad": "each", "time": "stats"}


class Processes:
    """All processes of all nodes."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._ended = clock, dict[int, tuple[Fate, int]]()
        self._last = 100

    def new(self) -> Process:
        self._last += 1
        return Process(self._last, 1)

    def end(self, process: Process, fate: Fate) -> None:
        self._ended.setdefault(process.pid, (fate, int(self._clock.time() * 1000)))

    def alive(self, process: Process) -> bool:
        return process.pid > 0 and process.pid not in self._ended

    def of(self, process: Process) -> tuple[Fate, int] | None:
        """In place of `ProcessEnds.of`."""
        return None if self.alive(process) else self._ended.get(process.pid, (Fate(), 0))


class NodeSession(Session):
    """A session whose processes live as long as the simulation says."""

    living: Callable[[str], bool]
    _owners: list[int] | None = None

    def owner_alive(self, name: str) -> bool:
        return self.living(name)

    def _open(self, name: str, flags: int) -> int:
        fd = super()._open(name, flags)
        if self._owners is not None and flags & os.O_EXCL:
            self._owners.append(fd)
        return fd

    def new_ring(self, **hooks: object) -> RingWriter:
        self._owners = []
        try:
            return super().new_ring(**hooks)
        finally:
            for fd in self._owners:  # held until a process is gone, which this one is not
                os.close(fd)
            self._owners = None


class Way:
    """A node's way to the store: it may be away, and an agent may be killed before or after a request."""

    def __init__(self, node: Node, sink: Sink) -> None:
        self._node, self._sink = node, sink

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._sink, name)
        if name not in _REQUESTS:
            return found

        def request(*args: Any, **kwargs: Any) -> Any:
            node = self._node
            node.cluster.clock.now += 0.001
            if node.cluster.down:
                raise ANSWERS["refused"](0.0)
            fault = node.strikes(name)
            if fault == "before":
                raise Killed(name)
            answer = found(*args, **kwargs)
            if fault == "after":
                raise Killed(name)
            if fault == "lost":
                raise ANSWERS["reset"](0.0)
            return answer

        return request


@dataclass(eq=False)
class Rank:
    """One process of the job."""

    node: Node
    job: Job
    process: Process
    session: NodeSession
    ring: RingWriter
    spec: RunSpec
    config: Settings
    name: str
    step: int
    alive: bool = True

    def put(self, record: object) -> None:
        self.ring.put(encode(record))

    def say(self, records: Iterable[object]) -> None:
        """What the SDK says, as this process."""
        for record in records:
            if isinstance(record, records_module.Rank):
                record = msgspec.structs.replace(record, pid=self.process.pid, started=self.process.began)  # noqa: PLW2901
            self.put(record)

    def log(self) -> None:
        """One step of training."""
        cluster, rank = self.node.cluster, self.job.rank
        now = cluster.clock.time_ns()
        values = {"grad": float(rank), "time": 1.0 + rank / 100, "loss": self.step + 0.5}
        self.put((self.spec.run, self.step, now, values))
        points = {f"grad/rank{rank}": values["grad"]} | ({"loss": values["loss"]} if rank == 0 else {})
        cluster.logged.update(mark_of(Point(key, value, now // 1_000_000, self.step)) for key, value in points.items())
        self.step += 1
        cluster.clock.now += 0.0001

    def end(self) -> None:
        """It has done its part, and leaves."""
        self.say(job_runs.told(self.spec, self.config, "done", ""))
        if self.spec.owned:
            self.put(Start(self.spec, again=True))
            self.put(End(self.spec.run, "FINISHED", int(self.node.cluster.clock.time() * 1000)))
        self.die(Fate(code=0))

    def die(self, fate: Fate) -> None:
        if self.alive:
            self.alive = False
            self.node.cluster.processes.end(self.process, fate)
            self.ring.close()
            self.ring.words.release()


@dataclass(eq=False)
class Node:
    """A machine."""

    cluster: Cluster
    index: int
    settings: Settings
    launcher: Process | None = None
    wrapper: Process | None = None
    ranks: list[Rank] = field(default_factory=list)
    session: NodeSession | None = None
    sessions: list[NodeSession] = field(default_factory=list)
    pipeline: Pipeline | None = None
    agents: int = 0
    restart_at: float | None = None
    due: dict[Any, float] = field(default_factory=dict)
    _faults: list[list[Any]] = field(default_factory=list)
    _idle_since: float | None = None

    # -- processes ---------------------------------------------------------------------------------------------------

    def launch(self, *, wrapped: bool) -> None:
        """`torchrun`, or `tailrace run -- torchrun`, is started here."""
        if wrapped and self.wrapper is None:
            self.wrapper = self.cluster.processes.new()
            directory = self.job_dir
            directory.make()
            directory.own(Owner(self.wrapper, "torchrun"))
        self.launcher = self.cluster.processes.new()

    def join(self, place: dict[str, int]) -> Rank:
        """A rank begins its run."""
        assert self.launcher is not None
        launcher = self.launcher
        environ = {name: str(value) for name, value in place.items()} | self.cluster.names
        job = find_job(environ, parent=lambda: launcher, boot=lambda: f"boot {self.index}")
        assert job is not None
        session = self._shared_session(job.key)
        spec = RunSpec(
            run=0, start_time=int(self.cluster.clock.time() * 1000), cwd="/", run_name="all",
            tags={"mlflow.user": "ada"}, owned=job.rank == 0,
        )  # fmt: skip
        job_runs._begun.clear()  # this is another process
        spec, config = job_runs.of_job(spec, msgspec.structs.replace(self.settings, ranks=_MODES), job, None)
        ring = session.new_ring()
        step = 1000 * job.attempt
        rank = Rank(
            self, job, self.cluster.processes.new(), session, ring, spec, config, ring.path.stem, step
        )  # fmt: skip
        self.ranks.append(rank)
        rank.say(job_runs.begun(spec, config))
        if self.pipeline is None and self.restart_at is None:
            self.restart_at = self.cluster.clock.now + _KEEPER
        return rank

    @property
    def living(self) -> list[Rank]:
        return [rank for rank in self.ranks if rank.alive]

    def end_launcher(self, fate: Fate) -> None:
        """All that it has started is gone, and so is it."""
        for rank in self.living:
            rank.die(Fate(signal=15))
        if self.launcher is not None:
            self.cluster.processes.end(self.launcher, fate)
        if self.wrapper is not None and self.cluster.processes.alive(self.wrapper):
            self.job_dir.end(fate)
            self.cluster.processes.end(self.wrapper, fate)

    def kill_wrapper(self) -> None:
        """SIGKILL: what it would have said of the end of its command is never said, and the command goes on."""
        if self.wrapper is not None:
            self.cluster.processes.end(self.wrapper, Fate(signal=9))

    @property
    def job_dir(self) -> JobDir:
        return JobDir(self.settings, self.cluster.key)

    def _shared_session(self, key: str) -> NodeSession:
        """As `job_place.open_shared` does it."""
        directory = JobDir(self.settings, key)
        directory.make()
        with directory.alone():
            named = directory.session
            if named is not None:
                session = self._opened(Path(named))
                if not session.closed:
                    return session
            created = NodeSession.create(self.settings, cwd="/", program="simulation")
            directory.note_session(created.dir)
        self.session = self._opened(created.dir)
        self.sessions.append(self.session)
        return self.session

    def _opened(self, directory: Path) -> NodeSession:
        opened = NodeSession.open(directory)
        assert isinstance(opened, NodeSession)
        opened.living = lambda ring: any(rank.alive and rank.name == ring for rank in self.ranks)
        return opened

    # -- the agent ---------------------------------------------------------------------------------------------------

    def arm(self, method: str, nth: int, fault: str) -> None:
        """Kills the agent `before` or `after` the n-th such request, or has its answer `lost`."""
        self._faults.append([method, nth, fault])

    def strikes(self, method: str) -> str | None:
        for fault in self._faults:
            if fault[0] == method:
                fault[1] -= 1
                if fault[1] < 0:
                    self._faults.remove(fault)
                    self.cluster.struck.append((self.index, *fault[::2]))
                    return str(fault[2])
        return None

    def disarm(self) -> None:
        self._faults.clear()

    def start_agent(self) -> None:
        self.restart_at, self._idle_since = None, None
        if self.pipeline is not None or self.session is None or self.session.closed:
            return
        session = self._opened(self.session.dir)
        self.pipeline = Pipeline.open(session, self._open_sink, self.cluster, monotonic=self.cluster.clock.monotonic)
        self.pipeline.on_change = self.due.clear
        self.due.clear()
        self.agents += 1

    def kill_agent(self) -> None:
        if self.pipeline is not None:
            self.pipeline.spool.close()
            self.pipeline = None
            self.restart_at = self.cluster.clock.now + _KEEPER if self.living else None

    def steps(self) -> dict[Any, Callable[[float], float]]:
        pipeline = self.pipeline
        if pipeline is None:
            return {}
        found: dict[Any, Callable[[float], float]] = {"drain": pipeline.drain}
        for uri, there in pipeline.by_uri.items():
            found[uri, "deliver"] = lambda now, there=there: pipeline.deliver(there, now)
            found[uri, "upload"] = lambda now, there=there: pipeline.upload(there, now)
            found[uri, "store"] = lambda now, there=there: pipeline.store_files(there, now)
        return found

    def turn(self, name: Any, step: Callable[[float], float]) -> None:
        now = self.cluster.clock.now
        try:
            self.due[name] = now + 5.0  # unless it wakes itself
            deadline = step(now)
            self.due[name] = min(deadline, now + 5.0) if name in self.due else 0.0
        except Killed:
            self.kill_agent()
            return
        if name == "drain":
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        pipeline, now = self.pipeline, self.cluster.clock.now
        assert pipeline is not None
        if not (pipeline.deserted and pipeline.settled):
            self._idle_since = None
            return
        self._idle_since = self._idle_since or now
        if now - self._idle_since >= _LINGER and pipeline.session.close_if_deserted():
            pipeline.close()
            self.pipeline = None

    def _open_sink(self, tracking_uri: str | None, cwd: str, *, request_timeout: float) -> Any:
        del tracking_uri, cwd, request_timeout
        return Way(self, self.cluster.open_sink(self))

    def close(self) -> None:
        for rank in self.living:
            rank.die(Fate())
        if self.pipeline is not None:
            self.pipeline.spool.close()
            self.pipeline.rings.close()
