"""One simulation: programs, an agent, its disk, a network and MLflow, in one thread, at the mercy of a list of actions.

Everything that happens follows from that list: the same list gives the same trace, byte for byte.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from simulation import acts
from simulation.agent import Agent, Program
from simulation.clock import Clock
from simulation.disk import Disk
from simulation.faults import Killed, Points
from simulation.journal import Journal
from simulation.model import Model
from simulation.network import Network
from simulation.oracle import Oracle, Wrong
from simulation.scenario import Scenario
from simulation.trainer import Trainer
from simulation.verdict import Verdict
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.settings.settings import Settings

__all__ = ["World"]

_TURNS = 30_000
_PATIENCE = 900.0
"""Simulated seconds, from the moment when all faults are over, within which everything must be settled."""
_KEEPER = 0.3
_INJECTED = (sqlite3.OperationalError, OSError)


class World:
    """The scheduler, and all that it moves."""

    def __init__(self, scenario: Scenario, folder: Path, clock: Clock) -> None:
        self.scenario, self._folder, self.clock = scenario, folder, clock
        self.points, self.journal, self.model = Points(), Journal(), Model(bulk=scenario.bulk)
        self.trace: list[str] = []
        self.network = Network(self.model, self.clock, self.points, self.tell)
        self.trainers: dict[int, Trainer] = {}
        self.names: dict[int, int] = {}  # tailrace's id by number of a run
        self.agent: Agent | None = None
        self.oracle = Oracle(self)
        self.session = self._make_session()
        self.disk = Disk(self.session.dir / "spool.db", self.points, power_cuts=scenario.power_cuts)
        self.disk.synced = self._synced
        self.points.on_kill = self._killed
        self.points.meanwhile = self._meanwhile
        self.restart_at: float | None = self.clock.now
        self.finished = False
        self.deaths = 0  # of agents
        self._turns = 0

    # -- what happens ------------------------------------------------------------------------------------------------

    def tell(self, event: str, **fields: object) -> None:
        """One line of the trace."""
        text = " ".join(f"{name}={value}" for name, value in fields.items() if name != "exc_info")
        self.trace.append(f"{self.clock.now:.4f} {event} {text}".replace(str(self._folder), "~"))

    info = warning = tell

    def error(self, event: str, **fields: object) -> None:
        """What the agent calls an error: an exception that no injected fault explains is one of ours."""
        self.tell(event, **fields)
        self.oracle.heard(event, fields)

    def run(self) -> None:
        """The scenario, then everything in peace until the agent leaves."""
        for action in self.scenario.actions:
            self.act(list(action))
        self.settle()
        Verdict(self).check()

    def act(self, action: list[Any]) -> None:
        """One action; one that has become impossible does nothing."""
        self.tell("act", what=action)
        getattr(acts, action[0])(self, *action[1:])

    def settle(self) -> None:
        """No more faults; programs come to their end; somebody calls `tailrace sync`."""
        self.points.disarm()
        self.network.down = None
        for number, trainer in self.trainers.items():
            if trainer.alive:
                acts.leave(self, number)
        deadline = self.clock.now + _PATIENCE
        order = random.Random(len(self.scenario.actions))
        while not self.finished:
            if self.agent is None and self.restart_at is None:
                self.restart_at = self.clock.now + 1.0
            self.pass_time(1.0, order)
            if self.clock.now > deadline:
                raise Wrong(f"after {_PATIENCE} s of peace the agent has not left: {self.oracle.left()}")
        self.pass_time(30.0, order)  # what is still under way

    def pass_time(self, seconds: float, order: random.Random) -> None:
        """Whoever is due gets a turn, in any order; then the clock goes on to whoever is next."""
        end = self.clock.now + seconds
        while True:
            self.network.arrive()
            if self.restart_at is not None and self.restart_at <= self.clock.now:
                self.start_agent()
            due = self.agent.due if self.agent is not None else []
            if due:
                self._give_turn(order.choice(due))
                continue
            if self.clock.now >= end:
                return
            upcoming = [self.network.next_late(), self.restart_at, self.agent.next_due if self.agent else None]
            self.clock.now = max(self.clock.now, min([end, *(at for at in upcoming if at is not None)]))

    def start_agent(self) -> None:
        """Somebody starts an agent: the keeper of a program, or `tailrace sync`."""
        self.restart_at = None
        if self.agent is not None or self.finished:
            return
        self.session = self._opened(self.session.dir)
        self.session.touch_shared()
        self.agent = Agent(self.session, self.clock, self.disk)
        self.tell("agent starts")
        try:
            self.agent.start(self._open_sink, self)
        except Killed:
            self._buried()
        except _INJECTED as error:  # a full disk, say: its parent starts another one
            self.tell("agent cannot start", reason=str(error))
            self.disk.kill()
            self._buried(after=2.0)

    def kill_agent(self) -> None:
        if self.agent is not None:
            self._killed("between two steps")
            self._buried()

    # -- turns -------------------------------------------------------------------------------------------------------

    def turn(self, name: str) -> None:
        """A turn of one worker of the agent, in the middle of another's, if it has such a worker."""
        if self.agent is not None:
            for turn in self.agent.turns:
                if turn.name == f"tailrace-{name}" and turn.started and not turn.busy:
                    self._take(turn)

    def _give_turn(self, turn: Any) -> None:
        try:
            self._take(turn)
        except Killed:
            self._buried()
        except _INJECTED as error:  # in its last moments: the process ends with a traceback
            self.tell("agent dies", reason=str(error))
            self.disk.kill()
            self._buried()

    def _take(self, turn: Any) -> None:
        self._turns += 1
        if self._turns > _TURNS:
            raise Wrong("it does not come to rest")
        self.clock.now += 0.0001
        agent = self.agent
        assert agent is not None
        agent.take(turn)
        self.oracle.after_turn(turn.name)
        if agent.left:
            self.finished = agent.finished or not self.session.dir.exists()
            self.tell("agent has left", finished=self.finished)
            if not (self.finished or agent.asked):
                raise Wrong(f"the agent leaves by itself, and {agent.pipeline.spool.waiting.points} wait")
            self._buried()

    def _meanwhile(self, actions: list[Any]) -> None:
        for action in actions:
            self.act(list(action))

    def _killed(self, where: str) -> None:
        self.tell("agent killed", where=where)
        self.disk.kill()

    def _buried(self, after: float = _KEEPER) -> None:
        self.agent = None
        self.deaths += not self.finished
        if not self.finished:
            self.restart_at = self.clock.now + after if any(t.alive for t in self.trainers.values()) else None

    # -- the parts ---------------------------------------------------------------------------------------------------

    def new_trainer(self) -> Trainer:
        return Trainer(self.session, self.journal, self.clock)

    def cut_power(self, seed: int) -> None:
        """Everybody is dead; shared memory is empty; the disk has what it had to have."""
        if not self.scenario.power_cuts or self.journal.cut or self.finished:
            return
        self.tell("power cut")
        for trainer in self.trainers.values():
            if trainer.alive:
                trainer.die()
        self.disk.kill()
        self.disk.cut_power(random.Random(seed))
        self.journal.cut, self.agent = True, None
        shutil.rmtree(self.session.shared, ignore_errors=True)
        self.clock.reboot()
        self.restart_at = self.clock.now + 1.0

    def _make_session(self) -> Program:
        (self._folder / "shared").mkdir()
        settings = Settings(
            dir=str(self._folder / "state"),
            ring_dir=str(self._folder / "shared"),
            ring_bytes=MIN_BYTES,
            drain_interval=self.scenario.drain_interval,
            best_metrics=self.scenario.bests,
            flush_interval=self.scenario.flush_interval,
            retry_max_delay=self.scenario.retry_max_delay,
            metadata=False,
        )
        created = Program.create(settings, cwd=str(self._folder), program="simulation")
        return self._opened(created.dir)

    def _opened(self, directory: Path) -> Program:
        opened = Program.open(directory)
        assert isinstance(opened, Program)
        opened.points, opened.living, opened.told = self.points, self._living, self.oracle.told
        opened.read_bytes = self.scenario.read_bytes
        opened.rebooted = self.journal.cut
        bound = msgspec.structs.replace(opened.info.settings, spool_max_bytes=self.scenario.spool_max_bytes)
        opened.info = msgspec.structs.replace(opened.info, settings=bound)
        return opened

    def _living(self, ring: str) -> bool:
        return any(trainer.ring == ring and trainer.alive for trainer in self.trainers.values())

    def _open_sink(self, tracking_uri: str | None, cwd: str, *, request_timeout: float) -> Network:
        del tracking_uri, cwd, request_timeout
        return self.network

    def _synced(self, database: sqlite3.Connection) -> None:
        """Everything in the database would survive a power cut from now on."""
        for ring, tail, spill in database.execute("SELECT name, tail, spill FROM ring"):
            index = self.journal.positions.get(ring, {}).get((tail, spill))
            if index is not None:
                self.journal.durable[ring] = max(index, self.journal.durable.get(ring, 0))
