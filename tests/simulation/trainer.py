"""A training process: its ring is real, and so is what the SDK does with a record; its calls are the scenario's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from zlib import adler32

from simulation.clock import Clock
from simulation.journal import Journal, Mark, Row, mark_of
from tailrace._session.connection import Connection
from tailrace_agent.ipc.records import Artifact, End, Flush, Goals, Params, Point, RunSpec, Start, Tags, encode
from tailrace_agent.ipc.ring_format import HEAD
from tailrace_agent.ipc.session import Session
from tailrace_agent.sinks.base import Limits
from tailrace_agent.text.utf8 import encoded

__all__ = ["Trainer"]

_SPILLED = 9


class _Silent:
    def warn(self, *_: object, **__: object) -> None: ...


class _Connected(Connection):
    """A connection whose agent is the scheduler's business."""

    def __init__(self, session: Session, trainer: Trainer) -> None:
        super().__init__(session.info.settings, _Silent())  # type: ignore[arg-type]
        self.session, self._trainer = session, trainer
        self._ring = self._new_ring(session)

    def put_first(self, row: bytes) -> None:
        self._trainer.refused = None
        super().put_first(row)
        self._trainer.placed(row)

    def _dropped(self, row: bytes, reason: str) -> None:
        self._trainer.refused = reason
        super()._dropped(row, reason)


class Trainer:
    """One process.

    Args:
        session: Which it joins.
        journal: Where its calls are written down.
        clock: Its clock.

    Attributes:
        runs: Those that it has begun, by number: their specs, until they have ended.
        alive: Whether it is.
    """

    def __init__(self, session: Session, journal: Journal, clock: Clock) -> None:
        self._session, self._journal, self._clock = session, journal, clock
        self.runs: dict[int, RunSpec] = {}
        self.alive = True
        self.refused: str | None = None
        self._waiting: dict[bytes, Row] = {}
        self._count = 0
        self._step = 100_000 * len(journal.positions)  # so that no two programs log the same value
        self._connection = _Connected(session, self)
        self.ring = self._connection.ring_name
        self._positions = journal.positions.setdefault(self.ring, {})

    # -- calls -------------------------------------------------------------------------------------------------------

    def start(self, number: int, spec: RunSpec) -> None:
        self.runs[number] = spec
        self._put(Start(spec), spec.run, "start")

    def log(self, run: int, values: dict[str, Any], *, at: int | None = None) -> int:
        """One `log()` call; its time."""
        time_ns = at or self._clock.time_ns()
        self._step += 1
        step = self._step
        row = encode((run, step, time_ns, values))
        good = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        marks = tuple(mark_of(Point(key, float(value), time_ns // 1_000_000, step)) for key, value in good.items())
        self._note(row, run, "metric", marks, bad=len(values) - len(good))
        self._connection.put_first(row)
        self._clock.now += 0.0003
        return time_ns

    def repeat(self, run: int, values: dict[str, float], at: int) -> None:
        """The same values once more, at the same step and time."""
        self._step -= 1
        self.log(run, values, at=at)

    def params(self, run: int, params: dict[str, str]) -> None:
        fitting = {key: value for key, value in params.items() if len(value) <= Limits().param_chars}
        self._put(Params(run, params), run, "param", tuple(fitting.items()), bad=len(params) - len(fitting))

    def tags(self, run: int, tags: dict[str, str]) -> None:
        self._put(Tags(run, tags), run, "tag", tuple(tags.items()))

    def goals(self, run: int, goals: dict[str, str]) -> None:
        self._put(Goals(run, goals), run, "goals")

    def artifact(self, run: int, name: str, body: bytes, files: int) -> None:
        """A file, or a directory of some."""
        staged = f"staged-{self.ring}-{self._journal.order:05}"
        entry = self._session.artifacts / staged
        marks: list[Mark] = []
        for number in range(max(1, files)):
            path = Path(name, f"{number}.bin") if files else Path(name)
            (entry / path).parent.mkdir(parents=True, exist_ok=True)
            (entry / path).write_bytes(body)
            marks.append((path.as_posix(), adler32(body)))
        self._put(Artifact(run, staged), run, "artifact", tuple(marks))

    def flush(self, run: int) -> None:
        self._put(Flush(run, self._connection.next_token()), run, "flush")

    def end(self, number: int, status: str) -> None:
        """As `_ending.Ending.hand_over` does it."""
        spec = self.runs.pop(number)
        self._put(Start(spec, again=True), spec.run, "again")
        self._put(End(spec.run, status, int(self._clock.time() * 1000)), spec.run, "end")

    # -- deaths ------------------------------------------------------------------------------------------------------

    def die(self) -> None:
        """SIGKILL, or the end of the process: its ring stays."""
        self.alive = False
        self._journal.deaths[self.ring] = self._journal.order
        ring = self._connection._ring
        assert ring is not None
        ring.close()
        ring.words.release()

    def die_inside(self, run: int, value: float, *, signalled: bool) -> None:
        """SIGKILL in the middle of a copy; `signalled`: after a signal handler has logged inside of that call."""
        ring = self._connection._ring
        assert ring is not None
        self._step += 1
        row = encode((run, self._step, self._clock.time_ns(), {"torn": value}))
        off = ring.off
        size = (len(row) + 15) & -8
        if off + size <= ring.limit:
            ring.off = off + size
            ring.words[off >> 3] = len(row) | adler32(row) << 32
            ring.memory[off + 8 : off + 8 + len(row) // 2] = row[: len(row) // 2]
            if signalled:
                self.log(run, {"inner": value})
                if ring.words[HEAD] == ring.off:
                    self._journal.torn.add(self.ring)
        self.die()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _put(self, record: object, run: int, kind: str, marks: tuple[Mark, ...] = (), bad: int = 0) -> None:
        self._note(encoded(encode, record), run, kind, marks, record=record, bad=bad)
        self._connection.put(record)
        self._clock.now += 0.0003

    def _note(self, body: bytes, run: int, kind: str, marks: tuple[Mark, ...], **more: Any) -> None:
        self._waiting[body] = self._journal.add(self.ring, run, kind, marks, **more)

    def placed(self, body: bytes) -> None:
        """A row of bytes is in the ring or in its spill file, or `refused` says why not."""
        if self.refused is not None:
            if body in self._waiting and self._waiting[body].kind == "metric":
                self._waiting.pop(body).lost = self.refused
            return
        ring = self._connection._ring
        assert ring is not None
        self._positions[ring.off, ring.words[_SPILLED]] = self._count + 1
        if (row := self._waiting.pop(body, None)) is not None:
            row.index = self._count
        self._count += 1


def odd_values(number: int) -> dict[str, Any]:
    """Values of every kind."""
    value = float(number)
    return [
        {"nan": math.nan, "loss": value},
        {"inf": math.inf, "minus": -math.inf, "loss": value},
        {"text": "high", "loss": value},
        {"bad(key)": value, "loss": value},
        {"poison": value, "loss": value},
        {"whole": number, "flag": True, "loss": value},
    ][number % 6]
