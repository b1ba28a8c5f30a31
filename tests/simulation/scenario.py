"""What happens in a simulation, as plain data: a list of actions, drawn from a seed, that can be printed and cut down.

Each seed draws which kinds of fault there are at all (swarm testing: A. Groce and others, 2012): with everything in
everything, some faults hide others.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from simulation.network import ANSWERS

__all__ = ["Scenario", "scenario"]

Action = list[Any]
_FAMILIES = ("network", "store", "kills", "disk", "status", "power", "clock", "meanwhile", "children", "bound", "gone")
_FAMILIES += ("bulk", "spill")
_KILL_POINTS = ("begin", "commit", "committed", "settled", "request", "answer", "before the tail", "after the tail")
_KILL_POINTS += ("status", "after the status", "open", "noting")
_HOLES = ("before the hole", "after the hole")
_PAUSES = ("request", "answer", "settled", "noting", "finalizing")
"""Points at which the agent's threads hold no lock, so that another one may come in between."""


class Scenario(msgspec.Struct, frozen=True):
    """One simulation, whole.

    `families`: which kinds of fault there are. `bulk`: its store takes few metrics at once, unless its bulk way is
    there. `read_bytes`: how much of a ring the agent reads at once. `bests`: runs get the best values of their metrics,
    which do not grow with each call then.
    """

    seed: int
    families: tuple[str, ...]
    actions: tuple[Action, ...]
    drain_interval: float = 0.1
    flush_interval: float = 0.5
    retry_max_delay: float = 10.0
    spool_max_bytes: int = 1 << 30
    power_cuts: bool = False
    bulk: bool = False
    read_bytes: int = 4 << 20
    bests: bool = False


def scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(seed)
    families = tuple(family for family in _FAMILIES if rng.random() < 0.4)
    draw = _Draw(rng, families)
    actions: list[Action] = [["join", 0], ["start", 0, 0, None]]
    for _ in range(rng.randint(6, 40)):
        actions += draw.next()
    # A chance of their own: all else of a seed is as it was before there were best values.
    also = random.Random(seed + 1_000_003)
    bests = also.random() < 0.5
    for _ in range(also.randint(0, 2) if bests else 0):
        actions.insert(also.randint(2, len(actions)), ["goals", draw.trainer_of(also), draw.run_of(also)])
    return Scenario(
        seed=seed,
        families=families,
        actions=tuple(actions),
        drain_interval=rng.choice((0.1, 0.3)),
        flush_interval=rng.choice((0.05, 0.5)),
        retry_max_delay=rng.choice((2.0, 30.0)),
        spool_max_bytes=8_000 if "bound" in families else 1 << 30,
        power_cuts="power" in families,
        bulk="bulk" in families,
        read_bytes=20_000 if "spill" in families else 4 << 20,
        bests=bests,
    )


class _Draw:
    """Draws actions."""

    def __init__(self, rng: random.Random, families: tuple[str, ...]) -> None:
        self._rng, self._families = rng, families
        self._runs = 1
        self._trainers = 1
        faults = {
            "network": self._network,
            "store": self._store,
            "kills": self._kill,
            "disk": self._disk,
            "status": lambda: [self._arm("status", "full")],
            "power": lambda: [["power", rng.getrandbits(32)]] if rng.random() < 0.2 else [],
            "clock": lambda: [["clock", rng.choice((-3600.0, 3600.0, -0.5, 5.0))]],
            "meanwhile": self._meanwhile,
            "children": self._child,
            "bound": lambda: [["burst", self._trainer(), self._run(), rng.randint(20, 120)]],
            "bulk": lambda: [["bulk", rng.random() < 0.6], ["burst", self._trainer(), self._run(), rng.randint(5, 60)]],
            "spill": self._spill,
            "gone": lambda: [["delete", self._run()]] if rng.random() < 0.3 else [],
        }
        self._faults = [faults[family] for family in families]

    def next(self) -> list[Action]:
        if self._faults and self._rng.random() < 0.45:
            return self._rng.choice(self._faults)()
        if self._rng.random() < 0.4:
            seconds = self._rng.choice((0.02, 0.15, 0.6, 2.0, 8.0))
            return [["pass", seconds, self._rng.getrandbits(16)]]
        return [self._call()]

    def _call(self) -> Action:
        rng, trainer, run = self._rng, self._trainer(), self._run()
        which = rng.random()
        if which < 0.35:
            return ["log", trainer, run, rng.choice((1, 3, 20, 90)), rng.choice(("plain", "plain", "odd", "twins"))]
        if which < 0.45:
            return ["params", trainer, run, rng.randint(0, 5), rng.choice((2, 2, 2, 7000))]
        if which < 0.55:
            return ["tags", trainer, run, rng.randint(0, 5)]
        if which < 0.65:
            return ["artifact", trainer, run, rng.choice((0, 0, 2)), rng.choice((1, 30, 3000))]
        if which < 0.75:
            return ["flush", trainer, run]
        if which < 0.85:
            self._runs += 1
            return ["start", trainer, self._runs - 1, rng.choice((None, None, run))]
        if which < 0.97:
            return ["end", trainer, run, rng.choice(("FINISHED", "FAILED"))]
        return ["leave", trainer]

    def run_of(self, rng: random.Random) -> int:
        return rng.randrange(self._runs)

    def trainer_of(self, rng: random.Random) -> int:
        return rng.randrange(self._trainers)

    def _run(self) -> int:
        return self.run_of(self._rng)

    def _trainer(self) -> int:
        return self.trainer_of(self._rng)

    def _arm(self, point: str, fault: str, *details: Any) -> Action:
        return ["arm", point, self._rng.choice((0, 0, 0, 1, 2, 5)), fault, *details]

    def _network(self) -> list[Action]:
        rng = self._rng
        which = rng.random()
        if which < 0.3:
            return [self._arm("request", "lost", rng.choice(("reset", "slow", "500", "garbage")))]
        if which < 0.45:
            return [self._arm("request", "late", rng.choice((0.5, 3.0, 20.0)))]
        if which < 0.85:
            return [self._arm("request", rng.choice(list(ANSWERS)), rng.choice((0.0, 1.0, 20.0)))]
        return [["down", rng.choice(list(ANSWERS))], ["pass", rng.choice((1.0, 6.0, 30.0)), 1], ["down", None]]

    def _store(self) -> list[Action]:
        return [["upload_fault", self._rng.choice((1, 3, 8, 10_000))]]

    def _kill(self) -> list[Action]:
        rng = self._rng
        which = rng.random()
        if which < 0.15:
            return [["kill_agent"]]
        if which < 0.25:
            return [["sigterm"]]
        if which < 0.35:
            return [["kill", self._trainer()], ["join", 0]]
        if which < 0.45:
            return [["torn", self._trainer(), self._run(), rng.random() < 0.5], ["join", 0]]
        if which < 0.55:
            return [self._arm("request", "killed after")]
        if which < 0.62:
            return [self._arm("commit", "torn")]
        return [self._arm(rng.choice(_KILL_POINTS), "kill")]

    def _disk(self) -> list[Action]:
        point = self._rng.choice(("begin", "commit", "commit", "open", "stage"))
        if point == "stage":  # for a text that is too long for MLflow, behind something else
            trainer, run = self._trainer(), self._run()
            return [["arm", point, 0, "full"], ["log", trainer, run, 3, "plain"], ["params", trainer, run, 1, 7000]]
        return [self._arm(point, self._rng.choice(("full", "eio")))]

    def _spill(self) -> list[Action]:
        """More than a ring holds, while the agent reads a part of it at a time, and may be killed at each."""
        rng, burst = self._rng, ["burst", self._trainer(), self._run(), self._rng.randint(80, 200)]
        killed = [self._arm(rng.choice(_HOLES), "kill")] if rng.random() < 0.5 else []
        return [*killed, burst, ["pass", 0.02, rng.getrandbits(16)], [*burst[:3], rng.randint(1, 60)]]

    def _meanwhile(self) -> list[Action]:
        rng, others = self._rng, []
        for _ in range(rng.randint(1, 3)):
            which = rng.random()
            log = ["log", self._trainer(), self._run(), 1, "plain"]
            if "bound" in self._families and rng.random() < 0.5:  # the bound is reached while a request is on its way
                log = ["burst", *log[1:3], rng.randint(20, 120)]
            turn = ["turn", rng.choice(("upload", "deliver", "deliver-2", "deliver-3"))]
            others.append(log if which < 0.4 else self._call() if which < 0.6 else turn)
        return [self._arm(rng.choice(_PAUSES), "meanwhile", *others, ["turn", "drain"])]

    def _child(self) -> list[Action]:
        self._trainers += 1
        return [["join", self._trainers - 1]]
