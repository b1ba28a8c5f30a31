"""What the simulated programs have logged: what must be in MLflow, or be accounted for, in the end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.names import stored_name

__all__ = ["Journal", "Mark", "Row", "mark_of"]

Mark = tuple[Any, ...]
"""What makes a value one: `(key, timestamp, step, value)` of a metric, `(key, value)` of a param or tag."""
_LARGEST = 1.7976931348623157e308


def mark_of(point: Point) -> Mark:
    """A point as MLflow's SQL stores tell it from others, under the name that they have for it."""
    value: Any = point.value
    if math.isnan(value):
        value = None
    elif math.isinf(value):
        value = math.copysign(_LARGEST, value)
    return stored_name(point.key), point.timestamp, point.step, value


@dataclass
class Row:
    """One call.

    Attributes:
        order: When it was made: calls are counted through all programs.
        ring: Its program's ring.
        index: Its place in that ring once it is there; None before.
        run: tailrace's id of the run.
        kind: `metric`, `param`, `tag`, `artifact`, `goals`, `start`, `end` or `flush`.
        marks: What it logs.
        lost: Why its program could put it nowhere.
        bad: Values that are no numbers, accepted and dropped; params that are too long, cut and kept as an artifact.
        record: The record of a start, an end or a flush.
    """

    order: int
    ring: str
    run: int
    kind: str
    marks: tuple[Mark, ...] = ()
    index: int | None = None
    lost: str | None = None
    bad: int = 0
    record: Any = None


@dataclass
class Journal:
    """All of it.

    Attributes:
        rows: In the order of the calls.
        maybe: Marks of calls that never returned, by run.
        deaths: When each ring's program was killed or left, as an order.
        durable: How many rows of each ring would survive a power cut.
        positions: Index of the row that ends at a position `(tail, spill)` of a ring.
        cut: Whether there was a power cut.
        torn: Rings with a torn frame in the middle.
        deleted: Runs that somebody has deleted in MLflow.
    """

    rows: list[Row] = field(default_factory=list)
    maybe: dict[int, set[Mark]] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    positions: dict[str, dict[tuple[int, int], int]] = field(default_factory=dict)
    cut: bool = False
    torn: set[str] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)

    def add(self, ring: str, run: int, kind: str, marks: tuple[Mark, ...] = (), **more: Any) -> Row:
        row = Row(len(self.rows), ring, run, kind, marks, **more)
        self.rows.append(row)
        return row

    @property
    def order(self) -> int:
        return len(self.rows)

    def kept(self, row: Row) -> bool:
        """Whether this call must not get lost: it has returned, and no power cut has taken it."""
        return row.index is not None and (not self.cut or row.index < self.durable.get(row.ring, 0))

    def of(self, run: int, *kinds: str) -> list[Row]:
        return [row for row in self.rows if row.run == run and row.kind in kinds]

    def read_late(self, run: int, over: int, *kinds: str) -> list[Row]:
        """What may be read after a run's end: what came after that call, and what stands in another one's ring."""
        home = {row.ring for row in self.of(run, "start")}
        return [row for row in self.of(run, *kinds) if row.order > over or row.ring not in home]

    def below(self, run: int) -> list[int]:
        """Nested runs of a run."""
        return [row.run for row in self.rows if row.kind == "start" and row.record.spec.parent == run]

    @property
    def runs(self) -> list[int]:
        return list(dict.fromkeys(row.run for row in self.rows if row.kind == "start"))

    def twins(self, run: int) -> dict[str, int]:
        """How many values of each key were logged before, just so."""
        seen: set[Mark] = set()
        twins: dict[str, int] = {}
        for mark in (mark for row in self.of(run, "metric") for mark in row.marks):
            if mark in seen:
                twins[mark[0]] = twins.get(mark[0], 0) + 1
            seen.add(mark)
        return twins
