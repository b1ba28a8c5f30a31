"""An agent of the simulation: the production code of the process, its threads replaced by the scheduler's turns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from simulation.clock import Clock
from simulation.disk import Disk
from simulation.faults import Points
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.hosts import workers as host
from tailrace_agent.hosts.process import _Agent
from tailrace_agent.hosts.worker import Worker
from tailrace_agent.ipc import staging, status
from tailrace_agent.ipc.ring_reader import Frames, RingReader
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.spool import database
from tailrace_agent.spool.blocks import Outcome

__all__ = ["Agent", "Program", "embodied"]

_LONGEST_WAIT = 5.0


class Turn(Worker):
    """A worker without a thread."""

    def __init__(self, agent: Agent, name: str, step: Callable[[float], float], log: Any) -> None:
        super().__init__(name, step, log)
        self.name, self._agent = name, agent
        self.due, self.busy, self.started = 0.0, False, name == "tailrace-drain"
        agent.turns.append(self)

    def start(self) -> None:
        self.started = True

    def wake(self) -> None:
        super().wake()
        self.due = 0.0

    @property
    def leaving(self) -> bool:
        return self._stopping

    def take(self) -> None:
        """One turn, as `Worker.run` does it."""
        self._wake.clear()
        self.busy = True
        try:
            deadline = self.step_once()
        finally:
            self.busy = False
        now = self._agent.clock.now
        self.due = 0.0 if self._wake.is_set() else min(deadline, now + _LONGEST_WAIT)


class _Reader(RingReader):
    """A reader whose commits can be cut short."""

    points: Points
    read_bytes: int

    def read(self, max_bytes: int = 0, *, give_up: bool = False) -> Frames:
        return super().read(max_bytes or self.read_bytes, give_up=give_up)

    def commit(self, tail: int, spill: int) -> None:
        self.points.reach("before the tail")
        super().commit(tail, spill)
        self.points.reach("after the tail")

    def _punch(self, fd: int, end: int) -> bool:
        self.points.reach("before the hole")
        punched = super()._punch(fd, end)
        self.points.reach("after the hole")
        return punched


class Program(Session):
    """A session whose owners live as long as the scheduler says."""

    points: Points
    living: Callable[[str], bool]
    told: Callable[[status.RunStatus], None]
    read_bytes: int
    rebooted: bool

    @property
    def here(self) -> bool:
        return not self.rebooted

    def owner_alive(self, name: str) -> bool:
        return self.living(name)

    def _read_again(self) -> None:
        settings = self.info.settings  # bounds that are smaller than a settings file may say
        super()._read_again()
        self.info = msgspec.structs.replace(self.info, settings=settings)

    def reader(self, name: str) -> RingReader:
        reader = _Reader(self.shared / f"{name}.ring", self.spill_path(name))
        reader.points, reader.read_bytes = self.points, self.read_bytes
        return reader


class Agent:
    """One process of `hosts.process`, from its start to its end.

    Attributes:
        turns: Its workers.
        left: Whether it has left in good order.
        finished: Whether it has closed the session.
        asked: Whether somebody has asked it to leave.
    """

    def __init__(self, session: Program, clock: Clock, disk: Disk) -> None:
        self.clock, self._session = clock, session
        self.disk = disk
        self.turns: list[Turn] = []
        self.left = self.finished = self.asked = False

    def start(self, open_sink: Any, log: Any) -> None:
        """The beginning of `hosts.process.main`."""
        self.pipeline = Pipeline.open(self._session, open_sink, log, monotonic=self.clock.monotonic)
        self._agent = _Agent(self.pipeline, log, None)
        self._host = host.Host(self.pipeline, log, self._agent.may_leave)
        settle = self.pipeline.spool.settle

        def settle_and_pause(*outcomes: Outcome) -> None:
            settle(*outcomes)
            self._session.points.reach("settled")

        note, advance = self.pipeline.book.update, self.pipeline.book.advance

        def pause_and_note(run: int, **changes: Any) -> None:
            self._session.points.reach("noting")
            note(run, **changes)

        def pause_and_advance(run: int, event: Event, **more: Any) -> bool:
            self._session.points.reach("finalizing" if event in (Event.SETTLED, Event.CAME) else "noting")
            return advance(run, event, **more)

        self.pipeline.book.update = pause_and_note  # type: ignore[method-assign]
        self.pipeline.book.advance = pause_and_advance  # type: ignore[method-assign]
        self.pipeline.spool.settle = settle_and_pause  # type: ignore[method-assign]

    @property
    def due(self) -> list[Turn]:
        """Who wants a turn now."""
        return [turn for turn in self.turns if turn.started and not turn.busy and turn.due <= self.clock.now]

    @property
    def next_due(self) -> float:
        return min(turn.due for turn in self.turns if turn.started)

    @property
    def drainer(self) -> Turn:
        return self.turns[0]

    def take(self, turn: Turn) -> None:
        """Gives a worker its turn; a drain may be the last one."""
        turn.take()
        if turn is self.drainer and turn.leaving and not self.left:
            self._leave()

    def request_exit(self) -> None:
        """SIGTERM."""
        self.asked = True
        self.drainer.leave()
        self.drainer.due = 0.0

    def _leave(self) -> None:
        """The end of `hosts.process.main`."""
        with contextlib.suppress(Exception):  # a full disk: it is the next agent's turn
            self.pipeline.drain(self.clock.now)
        self._agent.finish()
        self.left, self.finished = True, (self._session.dir / "finished").exists()

    def stage_text(self, folder: Path, name: str, text: str) -> str:
        """In place of `staging.stage_text`."""
        if self._session.points.reach("stage") is not None:
            raise OSError(28, "No space left on device")
        return _stage_text(folder, name, text)

    def write_status(self, path: Path, value: object) -> None:
        """In place of `status.write`."""
        points = self._session.points
        struck = points.reach("status")
        if struck is not None and struck[0] == "full":
            raise OSError(28, "No space left on device")
        _write(path, value)
        points.reach("after the status")
        if isinstance(value, status.RunStatus):
            self._session.told(value)


@contextlib.contextmanager
def embodied(agent: Callable[[], Agent | None]) -> Iterator[None]:
    """The database, the workers, the staged texts and the status files of an agent are the simulation's."""

    def the_agent() -> Agent:
        found = agent()
        assert found is not None
        return found

    def connect(path: Path, *, prove: bool) -> Any:
        assert prove
        return the_agent().disk.connect(path)

    def worker(name: str, step: Callable[[float], float], log: Any) -> Turn:
        return Turn(the_agent(), name, step, log)

    def stage_text(folder: Path, name: str, text: str) -> str:
        return the_agent().stage_text(folder, name, text)

    def write(path: Path, value: object, *, durable: bool = False) -> None:
        if durable or not agent():  # session.json
            _write(path, value, durable=durable)
        else:
            the_agent().write_status(path, value)

    with (
        mock.patch.object(database, "connect", connect),
        mock.patch.object(host, "Worker", worker),
        mock.patch.object(staging, "stage_text", stage_text),
        mock.patch.object(status, "write", write),
    ):
        yield


_stage_text = staging.stage_text
_write = status.write
