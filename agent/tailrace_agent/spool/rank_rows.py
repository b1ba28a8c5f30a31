"""What becomes of the metrics of a job's ranks, as the agent of their node takes them over.

`zero`: those of rank 0, under their names; the others' go nowhere. `each`: every rank's, as `loss/rank3`. `stats`: for
each step the mean, the least and the largest value of this node's ranks, and which rank had the largest: `loss.mean`,
`loss.min`, `loss.max`, `loss.max_rank`; on several nodes with the node behind, `loss.mean/node1`.

A step's statistics go out when all ranks of the node have said it, or `_PATIENCE` after the first of them, or when
`_MOST` steps wait, of those that have come. What comes for a step after that is dropped, and counted.

Invariants
----------
1. What waits here is in the run's stored state, written with the ring positions: an agent that is killed loses none.
2. `restore` brings back what waited at the last commit: rows that are read again are not counted twice.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import msgspec

__all__ = ["RankPlace", "RankRows", "Step", "routed"]

_PATIENCE: Final = 5.0
"""Seconds for which the statistics of a step wait for ranks that have not said it yet."""
_MOST: Final = 10_000
"""Steps of metrics that wait at most, in one session."""


class RankPlace(NamedTuple):
    """Whose rows a ring holds.

    Attributes:
        run: The run of the job.
        rank: Which process of the job writes.
        ranks: How many there are on this node; 0 where nobody says.
        node: What is put behind the names of statistics, where there are several nodes.
        modes: What becomes of its metrics, by pattern.
    """

    run: int
    rank: int
    ranks: int
    node: str
    modes: Mapping[str, str]


class Step(msgspec.Struct, array_like=True):
    """One metric at one step, as far as the ranks have said it."""

    key: str
    step: int
    time_ns: int
    ranks: int
    node: str
    values: dict[int, float | None]

    @property
    def row(self) -> dict[str, float]:
        """What goes out of it."""
        values = {rank: math.nan if value is None else value for rank, value in self.values.items()}
        known = {rank: value for rank, value in values.items() if not math.isnan(value)} or values
        # A rank whose value is no number is the one to look at.
        worst = next((rank for rank, value in values.items() if math.isnan(value)), max(known, key=known.__getitem__))
        found = {
            # In order, and not by `fsum`, which refuses infinities of both signs.
            "mean": sum(values.values()) / len(values),
            "min": min(known.values()),
            "max": max(known.values()),
            "max_rank": float(worst),
        }
        return {f"{self.key}.{what}{self.node}": value for what, value in found.items()}


def routed(place: RankPlace, values: Mapping[str, float | bool]) -> tuple[dict[str, float | bool], dict[str, float]]:
    """What goes on as a row of its own, by name, and what becomes a part of its step's statistics.

    Example:
        >>> routed(RankPlace(1, 3, 4, "", {"grad": "each", "time": "stats"}), {"loss": 1.0, "grad": 2.0, "time": 3.0})
        ({'grad/rank3': 2.0}, {'time': 3.0})
    """
    row: dict[str, float | bool] = {}
    stats: dict[str, float] = {}
    for key, value in values.items():
        mode = next((mode for pattern, mode in place.modes.items() if fnmatchcase(key, pattern)), "zero")
        if mode == "each":
            row[f"{key}/rank{place.rank}"] = value
        elif mode == "stats":
            stats[key] = float(value)
        elif place.rank == 0:
            row[key] = value
    return row, stats


_decoder = msgspec.msgpack.Decoder(list[tuple[int, str, int, Step, float]])


class RankRows:
    """The steps whose statistics are not complete.

    Args:
        monotonic: The clock.

    Not thread-safe: the drain's thread calls everything.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._places: dict[str, RankPlace] = {}
        self._open: dict[tuple[int, str, int], tuple[Step, float]] = {}
        self._gone_out: OrderedDict[tuple[int, str, int], None] = OrderedDict()
        self._changed: set[int] = set()

    def place_of(self, ring: str) -> RankPlace | None:
        """Whose rows a ring holds, where they are not simply its run's."""
        return self._places.get(ring)

    def put_place(self, ring: str, place: RankPlace) -> None:
        """This ring is that of a rank."""
        # Of a rank whose metrics are rank 0's alone nothing has to be looked at: its program sends none.
        if place.modes:
            self._places[ring] = place

    def add(self, place: RankPlace, step: int, time_ns: int, stats: Mapping[str, float]) -> int:
        """Takes what one rank has said of a step; how much of it came too late."""
        late = 0
        for key, value in stats.items():
            name = (place.run, key, step)
            if name in self._gone_out:
                late += 1
                continue
            found = self._open.get(name)
            if found is None:
                found = self._open[name] = Step(key, step, time_ns, place.ranks, place.node, {}), self._monotonic()
            found[0].values[place.rank] = None if math.isnan(value) else value
            self._changed.add(place.run)
        return late

    def complete(self, done: Callable[[int], bool]) -> Iterator[tuple[int, Step]]:
        """Those that go out now, oldest first.

        Args:
            done: Whether all ranks of a run on this node have done their part.
        """
        now, spare = self._monotonic(), len(self._open) - _MOST
        for n, (name, (step, since)) in enumerate(list(self._open.items())):
            whole = step.ranks and len(step.values) >= step.ranks
            if whole or n < spare or now - since > _PATIENCE or done(name[0]):
                del self._open[name]
                self._gone_out[name] = None
                self._changed.add(name[0])
                yield name[0], step
        while len(self._gone_out) > _MOST:
            self._gone_out.popitem(last=False)

    @property
    def waiting(self) -> bool:
        """Whether there is anything that goes out by itself, later."""
        return bool(self._open)

    def take_changed(self) -> dict[int, list[Step]]:
        """What waits now, of runs in which that has changed since: to be stored."""
        changed, self._changed = self._changed, set()
        return {run: [step for name, (step, _) in self._open.items() if name[0] == run] for run in changed}

    def resume(self, run: int, steps: list[Step]) -> None:
        """What an earlier agent has stored."""
        for step in steps:
            self._open[run, step.key, step.step] = step, self._monotonic()

    def keep(self) -> bytes:
        """All that waits, for `restore`."""
        return msgspec.msgpack.encode([(*name, step, since) for name, (step, since) in self._open.items()])

    def restore(self, kept: bytes) -> None:
        """What waited when it was kept: what has come since will come again."""
        now = set(self._open)
        self._open = {(run, key, step): (found, since) for run, key, step, found, since in _decoder.decode(kept)}
        for name in set(self._open) - now:  # it went out with what was not written
            self._gone_out.pop(name, None)
