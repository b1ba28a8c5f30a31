"""Plays a scenario from its beginning to its end, in a directory and a time of its own."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import msgspec

from simulation.agent import embodied
from simulation.clock import Clock, governed
from simulation.oracle import Wrong
from simulation.scenario import Scenario
from simulation.world import World
from tailrace_agent.ipc import session as session_module

__all__ = ["Outcome", "simulate"]


class Outcome(msgspec.Struct):
    """What a simulation came to: its trace, and what was wrong, if anything."""

    trace: list[str]
    wrong: str | None
    struck: dict[str, int]
    seconds: float


def simulate(scenario: Scenario) -> Outcome:
    """Plays a scenario; what it came to."""
    clock, wrong = Clock(), None
    world: World | None = None
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-simulation-", dir=_memory()) as folder,
        governed(clock, random.Random(scenario.seed)),
        embodied(lambda: world.agent if world is not None else None),
        _own_descriptors(),
    ):
        world = World(scenario, Path(folder), clock)
        try:
            world.run()
        except Wrong as found:
            wrong = str(found).replace(folder, "~")
        except Exception:  # noqa: BLE001 - nothing but what the hosts handle may come out of a step
            wrong = traceback.format_exc(limit=-4).replace(folder, "~")
        finally:
            world.disk.kill()
    return Outcome(world.trace, wrong, dict(world.points.struck), clock.now)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextlib.contextmanager
def _own_descriptors() -> Iterator[None]:
    """The locks of rings are kept until a process is gone; here it goes on."""
    kept: list[int] = []
    real: Callable[..., int] = session_module.open_own

    def open_own(path: str | os.PathLike[str], flags: int) -> int:
        fd = real(path, flags)
        if flags & os.O_EXCL:  # all others are closed at once
            kept.append(fd)
        return fd

    with mock.patch.object(session_module, "open_own", open_own):
        try:
            yield
        finally:
            for fd in kept:
                with contextlib.suppress(OSError):
                    os.close(fd)
