"""A job on many nodes in one thread: ranks with real rings, an agent's `Pipeline` on each node, one store for all.

Processes, their deaths, the launchers and the clock are the simulation's; who is in which job, which session they
share, and what they say is decided by the code that decides it in production.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from simulation.clock import Clock
from simulation.cluster_node import Node, Processes, Rank
from simulation.journal import Mark
from tailrace_agent.delivery import run_jobs
from tailrace_agent.ipc import job_dir
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.pipeline import job_watch
from tailrace_agent.runtime.processes import Fate
from tailrace_agent.settings.settings import Settings
from tailrace_agent.sinks.base import Sink
from tailrace_agent.spool.rank_rows import RankRows

__all__ = ["Cluster", "Node", "Rank"]

_RUN_ID = "5f0c4f6e-8f43-4b0e-9d53-0a4f6f1d2c3b"
"""What torchrun's nodes agree on."""
_MOST_TURNS = 2_000_000


class Cluster:
    """All nodes, and the job that runs on them.

    Args:
        folder: For the state of all nodes.
        clock: Everybody's.
        open_sink: The store, as a node reaches it.
        seed: For the order of turns.
        wrapped: The job is started behind `tailrace run --`, on each node, under one name.
        **settings: Of the agents.

    Attributes:
        down: Whether the store is away.
        logged: What must be in the store in the end.
        struck: The faults that struck.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        open_sink: Callable[[Node], Sink],
        *,
        seed: int = 0,
        wrapped: bool = False,
        **settings: Any,
    ) -> None:
        self._folder, self.clock, self.open_sink = folder, clock, open_sink
        self._settings, self._wrapped = settings, wrapped
        self.names = {"TORCHELASTIC_RUN_ID": _RUN_ID} | ({"TAILRACE_JOB": "night-7"} if wrapped else {})
        self.key = "named:night-7" if wrapped else f"torchelastic:{_RUN_ID}"
        self.rng = random.Random(seed)
        self.processes = Processes(clock)
        self.nodes: list[Node] = []
        self.logged: set[Mark] = set()
        self.struck: list[tuple[Any, ...]] = []
        self.down = False
        self._turns = 0

    # -- the log of the agents ---------------------------------------------------------------------------------------

    def info(self, event: str, **fields: object) -> None: ...

    warning = error = info

    # -- the job -----------------------------------------------------------------------------------------------------

    def node(self, index: int) -> Node:
        """A machine; it is made when it is first asked for."""
        while len(self.nodes) <= index:
            root = self._folder / f"n{len(self.nodes)}"
            (root / "shared").mkdir(parents=True)
            given = {"dir": str(root / "state"), "ring_dir": str(root / "shared"), "ring_bytes": MIN_BYTES}
            settings = Settings(**{**given, "metadata": False, "best_metrics": False, **self._settings})
            self.nodes.append(Node(self, len(self.nodes), settings))
        return self.nodes[index]

    def start(
        self,
        machines: list[int],
        ranks: int,
        attempt: int = 0,
        *,
        between: float = 0.0,
        late: dict[int, float] | None = None,
    ) -> list[Rank]:
        """The launchers start all ranks, in any order.

        Args:
            machines: On which nodes; the first one has rank 0.
            ranks: How many on each.
            attempt: How often the job was started before.
            between: Seconds from one to the next, on average.
            late: Seconds by which nodes are later than the others; meanwhile those train.
        """
        for index in machines:
            node = self.node(index)
            if node.launcher is None or not self.processes.alive(node.launcher):
                node.launch(wrapped=self._wrapped)
        places = [(index, group, local) for group, index in enumerate(machines) for local in range(ranks)]
        self.rng.shuffle(places)
        late, started, began = late or {}, list[Rank](), self.clock.now
        for index, group, local in sorted(places, key=lambda place: late.get(place[0], 0.0)):
            while self.clock.now < began + late.get(index, 0.0):
                self.train(1, every=10.0)
            place = {
                "RANK": group * ranks + local, "WORLD_SIZE": ranks * len(machines), "LOCAL_RANK": local,
                "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": group, "TORCHELASTIC_RESTART_COUNT": attempt,
            }  # fmt: skip
            started.append(self.node(index).join(place))
            if between:
                self.pass_time(self.rng.random() * 2 * between)
        return started

    @property
    def living(self) -> list[Rank]:
        return [rank for node in self.nodes for rank in node.living]

    def train(self, steps: int, every: float = 0.1) -> None:
        """All ranks log some steps."""
        for _ in range(steps):
            for rank in self.living:
                rank.log()
            self.pass_time(every)

    def fall(self) -> None:
        """One rank has fallen: the launchers stop all others."""
        for rank in self.living:
            rank.die(Fate(signal=15))

    def finish(self) -> None:
        """All ranks do their part, in any order; then the launchers are done, and their parents."""
        ranks = self.living
        self.rng.shuffle(ranks)
        for rank in ranks:
            rank.end()
        self.pass_time(self.rng.random())
        for node in self.nodes:
            node.end_launcher(Fate(code=0))

    def settle(self, patience: float = 900.0) -> None:
        """No more faults; all agents come to their end. Somebody calls `tailrace sync` where there is none."""
        self.down = False
        for node in self.nodes:
            node.disarm()
        deadline = self.clock.now + patience
        while any(node.session is not None and not node.session.closed for node in self.nodes):
            for node in self.nodes:
                if node.pipeline is None and node.restart_at is None and node.session and not node.session.closed:
                    node.restart_at = self.clock.now
            self.pass_time(1.0)
            assert self.clock.now < deadline, f"after {patience} s of peace agents have not left: {self._left()}"

    def _left(self) -> list[Any]:
        return [
            (node.index, node.pipeline.spool.waiting.points, [(s.ref, s.end) for s in node.pipeline.book.all()])
            for node in self.nodes
            if node.pipeline is not None
        ]  # fmt: skip

    # -- time --------------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Whoever is due gets a turn, in any order; then the clock goes on to whoever is next."""
        end = self.clock.now + seconds
        while True:
            due, upcoming = self._due(end)
            self.rng.shuffle(due)
            for node, name, step in due:
                if node.pipeline is not None and node.due.get(name, 0.0) <= self.clock.now:
                    self._turns += 1
                    assert self._turns < _MOST_TURNS, "it does not come to rest"
                    self.clock.now += 0.00001
                    node.turn(name, step)
            if not due:
                if self.clock.now >= end:
                    return
                self.clock.now = max(self.clock.now, upcoming)

    def _due(self, end: float) -> tuple[list[tuple[Node, Any, Callable[[float], float]]], float]:
        """Who wants a turn now, and when the next one does."""
        now, upcoming, due = self.clock.now, end, list[tuple[Node, Any, Callable[[float], float]]]()
        for node in self.nodes:
            if node.restart_at is not None and node.restart_at <= now:
                node.start_agent()
            upcoming = min(upcoming, node.restart_at or end)
            for name, step in node.steps().items():
                at = node.due.get(name, 0.0)
                if at <= now:
                    due.append((node, name, step))
                upcoming = min(upcoming, max(at, now))
        return due, upcoming

    @contextmanager
    def embodied(self) -> Iterator[Cluster]:
        """Processes are this cluster's while it lasts."""
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(job_watch, "ProcessEnds", return_value=self.processes))
            for module in (job_watch, job_dir, run_jobs):
                stack.enter_context(mock.patch.object(module, "is_alive", self.processes.alive))
            clock = (self.clock.monotonic,)  # in place of the real one, which it has by default
            stack.enter_context(mock.patch.object(RankRows.__init__, "__defaults__", clock))
            stack.callback(lambda: [node.close() for node in self.nodes])
            yield self
