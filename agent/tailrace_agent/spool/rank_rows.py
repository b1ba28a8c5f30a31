"""What becomes of the metrics of a job's ranks, as the agent of their node takes them over.

`zero`: those of rank 0, under their names; the others' go nowhere. `each`: every rank's, as `loss/rank3`. `runs`: every
rank's under their names, those of the others than rank 0 in a nested run of their own. `stats`: for each step the mean,
the least and the largest value of this node's ranks, and which rank had the largest: `loss.mean`, `loss.min`,
`loss.max`, `loss.max_rank`; on several nodes with the node behind, `loss.mean/node1`.

A step's statistics go out when all ranks of the node have said it, or `_PATIENCE` after the first of them, or when
`_MOST` steps wait, of those that have come. What comes for a step after that is dropped, and counted. Ranks that are
started anew begin another *round*: what they do once more is a step of its own.

Invariants
----------
1. What waits here, and which steps are out, is in the run's stored state, written with the ring positions: an agent
   that is killed loses none, and its successor sends none twice.
2. `restore` brings back what was known at the last commit: rows that are read again are not counted twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import msgspec

from tailrace_agent.decoding import msgpack_decoder
from tailrace_agent.spool.step_ranges import StepRanges

__all__ = ["RankPlace", "RankRows", "RankSteps", "Routed", "Step", "mode_of", "routed"]

_PATIENCE: Final = 5.0
"""Seconds for which the statistics of a step wait for ranks that have not said it yet."""
_MOST: Final = 10_000
"""Steps of metrics that wait at most, in one session; and names of metrics whose mode is remembered."""


class RankPlace(NamedTuple):
    """Whose rows a ring holds.

    Attributes:
        run: The run of the job.
        rank: Which process of the job writes.
        ranks: How many there are on this node; 0 where nobody says.
        node: What is put behind the names of statistics, where there are several nodes.
        modes: What becomes of its metrics, by pattern.
        own_run: The nested run of this rank; for rank 0 that of the job.
    """

    run: int
    rank: int
    ranks: int
    node: str
    modes: Mapping[str, str]
    own_run: int = 0


class Step(msgspec.Struct, array_like=True):
    """One metric at one step, as far as the ranks have said it."""

    key: str
    step: int
    time_ns: int
    ranks: int
    node: str
    values: dict[int, float | str]  # as text what is no finite number: JSON has none
    round: int = 0

    @property
    def row(self) -> dict[str, float]:
        """What goes out of it."""
        values = {rank: float(value) for rank, value in self.values.items()}
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


class Routed(NamedTuple):
    """What becomes of the values of one row: a row of the job's run, one of the rank's own, and parts of statistics."""

    row: dict[str, float | bool]
    own: dict[str, float | bool]
    stats: dict[str, float]


def mode_of(modes: Mapping[str, str], key: str) -> str:
    """What becomes of a metric: of several patterns the first that fits counts."""
    return next((mode for pattern, mode in modes.items() if fnmatchcase(key, pattern)), "zero")


def routed(place: RankPlace, values: Mapping[str, float | bool], modes: Mapping[str, str]) -> Routed:
    """What goes where of one rank's row.

    Args:
        place: Whose it is.
        values: By metric.
        modes: What becomes of each, by its whole name.

    Example:
        >>> modes = {"loss": "zero", "grad": "each", "time": "stats"}
        >>> routed(RankPlace(1, 3, 4, "", modes), {"loss": 1.0, "grad": 2.0, "time": 3.0}, modes)
        Routed(row={'grad/rank3': 2.0}, own={}, stats={'time': 3.0})
    """
    found = Routed({}, {}, {})
    for key, value in values.items():
        how = modes[key]
        if how == "each":
            found.row[f"{key}/rank{place.rank}"] = value
        elif how == "stats":
            found.stats[key] = float(value)
        elif place.rank == 0:
            found.row[key] = value
        elif how == "runs":
            found.own[key] = value
    return found


class RankSteps(msgspec.Struct):
    """What is stored of a run.

    Attributes:
        waiting: Steps that are not complete.
        out: Which are out, by metric and round.
        rounds: Rank and round by ring.
    """

    waiting: list[Step] = []
    out: list[tuple[str, int, list[list[int]]]] = []
    rounds: dict[str, tuple[int, int]] = {}


class _OfRun:
    """What is known of one run."""

    def __init__(self, stored: RankSteps, now: float) -> None:
        self.waiting = {(step.key, step.round, step.step): (step, now) for step in stored.waiting}
        self.out = {(key, number): StepRanges(ranges) for key, number, ranges in stored.out}
        self.rounds = {ring: (rank, number) for ring, (rank, number) in stored.rounds.items()}

    @property
    def stored(self) -> RankSteps:
        out = [(key, number, ranges.stored) for (key, number), ranges in self.out.items()]
        return RankSteps([step for step, _ in self.waiting.values()], out, dict(self.rounds))

    def enter(self, ring: str, rank: int) -> bool:
        """This ring is that of a rank; whether that is new."""
        if ring in self.rounds:
            return False
        newest = max((number for _, number in self.rounds.values()), default=0)
        before = [number for other, number in self.rounds.values() if other == rank]
        number = max(newest, max(before) + 1) if before else newest
        self.rounds[ring] = rank, number
        # Of the round before rows may still come; and who is started anew again and again leaves nothing behind.
        self.rounds = {name: entry for name, entry in self.rounds.items() if entry[1] >= number - 1}
        self.out = {name: ranges for name, ranges in self.out.items() if name[1] >= number - 1}
        return True


class RankRows:
    """The steps whose statistics are not complete, and those whose are out.

    Args:
        monotonic: The clock.

    Not thread-safe: the drain's thread calls everything.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._places: dict[str, RankPlace] = {}
        self._runs: dict[int, _OfRun] = {}
        self._changed: set[int] = set()
        self._silent: set[int] = set()
        self._modes: dict[str, dict[str, str]] = {}  # by ring and metric, as found

    def place_of(self, ring: str) -> RankPlace | None:
        """Whose rows a ring holds, where they are not simply its run's."""
        return self._places.get(ring)

    def put_place(self, ring: str, place: RankPlace) -> None:
        """This ring is that of a rank."""
        # Of a rank whose metrics are rank 0's alone nothing has to be looked at: its program sends none.
        if place.modes:
            self._places[ring], self._modes[ring] = place, {}
            if self._of(place.run).enter(ring, place.rank):
                self._changed.add(place.run)

    def route(self, ring: str, values: Mapping[str, float | bool]) -> Routed:
        """What goes where of one row of a ring."""
        place, known = self._places[ring], self._modes[ring]
        if len(known) > _MOST:  # a program may have a new name at every step
            known.clear()
        for key in values:
            if key not in known:
                known[key] = mode_of(place.modes, key)
        return routed(place, values, known)

    def add(self, ring: str, step: int, time_ns: int, stats: Mapping[str, float]) -> int:
        """Takes what one rank has said of a step; how much of it came too late."""
        place = self._places[ring]
        of_run, late = self._of(place.run), 0
        number = of_run.rounds.get(ring, (place.rank, 0))[1]
        for key, value in stats.items():
            found = of_run.waiting.get((key, number, step))
            if found is None:
                if (out := of_run.out.get((key, number))) is not None and step in out:
                    late += 1
                    continue
                begun = Step(key, step, time_ns, place.ranks, place.node, {}, number)
                found = of_run.waiting[key, number, step] = begun, self._monotonic()
            found[0].values[place.rank] = value if math.isfinite(value) else str(value)
            self._changed.add(place.run)
        return late

    def close_all_but(self, rings: Container[str]) -> None:
        """Who writes to none of these rings is gone, and has nothing more to say."""
        self._silent = {
            run
            for run, of_run in self._runs.items()
            if of_run.waiting and not any(map(rings.__contains__, of_run.rounds))
        }

    def complete(self, done: Callable[[int], bool]) -> Iterator[tuple[int, Step]]:
        """Those that go out now, of each run the oldest first.

        Args:
            done: Whether all ranks of a run on this node have done their part.
        """
        now, spare = self._monotonic(), sum(len(of_run.waiting) for of_run in self._runs.values()) - _MOST
        for run, of_run in self._runs.items():
            over = run in self._silent or (bool(of_run.waiting) and done(run))
            for name, (step, since) in list(of_run.waiting.items()):
                whole = step.ranks and len(step.values) >= step.ranks
                if whole or over or spare > 0 or now - since > _PATIENCE:
                    spare -= 1
                    del of_run.waiting[name]
                    of_run.out.setdefault((step.key, step.round), StepRanges()).add(step.step)
                    self._changed.add(run)
                    yield run, step

    @property
    def waiting(self) -> bool:
        """Whether there is anything that goes out by itself, later."""
        return any(of_run.waiting for of_run in self._runs.values())

    def take_changed(self) -> dict[int, RankSteps]:
        """What is known now of runs of which that has changed since: to be stored."""
        changed, self._changed = self._changed, set()
        return {run: self._of(run).stored for run in changed}

    def resume(self, run: int, steps: RankSteps) -> None:
        """What an earlier agent has stored."""
        self._runs[run] = _OfRun(steps, self._monotonic())

    def keep(self) -> bytes:
        """All that is known, for `restore`."""
        return _encoder.encode({run: of_run.stored for run, of_run in self._runs.items()}) if self._runs else b""

    def restore(self, kept: bytes) -> None:
        """What was known when it was kept: what has come since will come again."""
        before, now = self._runs, self._monotonic()
        stored = _decoder.decode(kept) if kept else {}
        self._runs = {run: _OfRun(steps, now) for run, steps in stored.items()}
        for run, of_run in self._runs.items():
            for name, (step, _) in of_run.waiting.items():
                of_run.waiting[name] = step, before[run].waiting.get(name, (step, now))[1]

    def _of(self, run: int) -> _OfRun:
        return self._runs.setdefault(run, _OfRun(RankSteps(), 0.0))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgpack_decoder(dict[int, RankSteps])
