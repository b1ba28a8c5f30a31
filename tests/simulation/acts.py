"""The actions of a scenario. Each is a function of the world; one that has become impossible does nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from simulation.trainer import odd_values
from tailrace_agent.errors import SessionError
from tailrace_agent.ipc.records import RunSpec, run_hex

if TYPE_CHECKING:
    from simulation.trainer import Trainer
    from simulation.world import World

_WIDE = [f"{name}/{'x' * 200}" for name in "abcde"]


def join(world: World, trainer: int) -> None:
    """A process joins the session: the program, or a child of it."""
    known = world.trainers.get(trainer)
    if (known is not None and known.alive) or world.journal.cut or world.finished:
        return
    others = [other for other in world.trainers.values() if other.alive]
    if trainer and not others:  # there is nobody who would have a child
        return
    try:
        world.trainers[trainer] = world.new_trainer()
    except SessionError as error:
        world.tell("cannot join", reason=str(error))


def start(world: World, trainer: int, run: int, parent: int | None) -> None:
    process = _alive(world, trainer)
    if process is None or run in world.names:
        return
    above = world.names.get(parent) if parent is not None else None
    if above is not None and parent not in process.runs:
        above = None
    world.names[run] = 0x1000 + run
    spec = RunSpec(
        run=world.names[run],
        start_time=int(world.clock.time() * 1000),
        cwd=world.session.info.cwd,
        run_name=f"run {run}",
        parent=above,
    )
    process.start(run, spec)


def log(world: World, trainer: int, run: int, rows: int, what: str) -> None:
    process = _alive(world, trainer)
    if process is None or not _known(world, run):
        return
    for _ in range(rows):
        number = world.journal.order
        # Of best values the first one is not always the smallest.
        value = float(number * 7919 % 1009) if world.scenario.bests else float(number)
        values: dict[str, Any] = {"loss": value, "lr": value}
        if what == "odd":
            values = odd_values(number) | ({"loss": value} if world.scenario.bests else {})
        at = process.log(world.names[run], values)
        if what == "twins":
            process.repeat(world.names[run], values, at)


def goals(world: World, trainer: int, run: int) -> None:
    """The program says what is better of a metric whose name does not."""
    process = _alive(world, trainer)
    if process is not None and _known(world, run):
        process.goals(world.names[run], {"lr": "max"})


def burst(world: World, trainer: int, run: int, rows: int) -> None:
    """More than the ring holds."""
    process = _alive(world, trainer)
    if process is None or not _known(world, run):
        return
    for _ in range(rows):
        number = float(world.journal.order)
        process.log(world.names[run], dict.fromkeys(_WIDE, number))


def params(world: World, trainer: int, run: int, number: int, size: int) -> None:
    process = _alive(world, trainer)
    if process is not None and _known(world, run):
        fresh = world.journal.order
        process.params(world.names[run], {f"p{number}": f"v{fresh}", f"own{fresh}": "1" * size})


def tags(world: World, trainer: int, run: int, number: int) -> None:
    process = _alive(world, trainer)
    if process is not None and _known(world, run):
        fresh = world.journal.order
        process.tags(
            world.names[run], {f"t{number}": f"v{fresh}", ("poison" if number == 5 else "own") + str(fresh): "1"}
        )


def artifact(world: World, trainer: int, run: int, files: int, size: int) -> None:
    process = _alive(world, trainer)
    if process is not None and _known(world, run):
        number = world.journal.order
        body = random.Random(number).randbytes(size)
        process.artifact(world.names[run], f"a{number}", body, files)


def flush(world: World, trainer: int, run: int) -> None:
    process = _alive(world, trainer)
    if process is not None and _known(world, run):
        process.flush(world.names[run])


def end(world: World, trainer: int, run: int, status: str) -> None:
    process = _alive(world, trainer)
    if process is not None and run in process.runs:
        process.end(run, status)


def leave(world: World, trainer: int) -> None:
    """The process ends its runs, nested ones first, and then itself."""
    process = _alive(world, trainer)
    if process is not None:
        for run in sorted(process.runs, reverse=True):
            process.end(run, "FINISHED")
        process.die()


def kill(world: World, trainer: int) -> None:
    process = _alive(world, trainer)
    if process is not None:
        process.die()


def torn(world: World, trainer: int, run: int, signalled: bool) -> None:
    process = _alive(world, trainer)
    if process is not None and _known(world, run):
        process.die_inside(world.names[run], float(world.journal.order), signalled=signalled)


def arm(world: World, point: str, nth: int, fault: str, *details: Any) -> None:
    world.points.arm(point, nth, fault, *details)


def kill_agent(world: World) -> None:
    world.kill_agent()


def sigterm(world: World) -> None:
    if world.agent is not None:
        world.agent.request_exit()


def turn(world: World, name: str) -> None:
    world.turn(name)


def down(world: World, answer: str | None) -> None:
    world.network.down = answer


def power(world: World, seed: int) -> None:
    world.cut_power(seed)


def clock(world: World, seconds: float) -> None:
    world.clock.jump(seconds)


def delete(world: World, run: int) -> None:
    """Somebody deletes the run in MLflow."""
    if run in world.names:
        for found in world.model.of(run_hex(world.names[run])):
            found.deleted = True
            world.journal.deleted.add(world.names[run])


def upload_fault(world: World, tries: int) -> None:
    """The next artifact does not get through for that many tries, while others do."""
    world.network.stubborn = tries


def bulk(world: World, there: bool) -> None:
    """The bulk way of the store comes, or goes."""
    world.model.offer_bulk(there)


def pass_(world: World, seconds: float, order: int) -> None:
    world.pass_time(seconds, random.Random(order))


def _alive(world: World, trainer: int) -> Trainer | None:
    process = world.trainers.get(trainer)
    return process if process is not None and process.alive else None


def _known(world: World, run: int) -> bool:
    """Whether the run has begun. Whoever logs to it knows it from a program whose word for it has found room."""
    return run in world.names and any(row.index is not None for row in world.journal.of(world.names[run], "start"))


globals()["pass"] = pass_
