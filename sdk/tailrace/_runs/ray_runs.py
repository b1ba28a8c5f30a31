"""Runs and Ray: how tasks find the run of their driver, and what becomes of one that a task leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tailrace._session.ray_place import ray_place
from tailrace_agent.errors import StateDirError
from tailrace_agent.ipc.job_dir import JobDir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailrace._messages.voice import Voice
    from tailrace._runs.core import RunCore
    from tailrace._runs.launch import Launcher
    from tailrace._session.connection import Connection
    from tailrace_agent.settings.settings import Settings

__all__ = ["end_left_behind", "run_of_driver", "show_ray"]


class Found(NamedTuple):
    """A run that is active in the driver: its session's connection, its id, and its session where that is another."""

    connection: Connection
    number: int
    session: str | None
    settings: Settings


def run_of_driver(settings: Callable[[Mapping[str, Any]], Settings], launcher: Launcher) -> Found | None:
    """The run that is active in the driver of this worker, if that is on this machine.

    Args:
        settings: Those in force.
        launcher: Makes the connection.
    """
    place = ray_place()
    if place is None or place.task is None:
        return None
    config = settings({})
    session = None if config.agent == "off" else JobDir(config, place.key).session
    connection = launcher.connect_to(session, config) if session is not None else None
    following = connection.page.following() if connection is not None and connection.page is not None else None
    return None if following is None or connection is None else Found(connection, *following, config)


def show_ray(run: RunCore, connection: Connection, voice: Voice) -> None:
    """Notes which task has begun a run; in a driver, shows its session to the workers, which Ray has started before."""
    place = ray_place()
    if place is None:
        return
    run.task = place.task
    if place.task is not None or not connection.session.begun_here:
        return
    directory = JobDir(run.settings, place.key)
    try:
        directory.make()
        directory.note_session(connection.session.dir)
    except (StateDirError, OSError) as error:
        voice.warn(f"Ray's tasks do not find this run: {error}", once="ray")


def end_left_behind(run: RunCore) -> bool:
    """Ends a run that an earlier task of this worker of Ray has left behind; whether it was one."""
    place = ray_place()
    if place is None or place.task is None or run.task in (None, place.task):
        return False
    run.voice.warn(
        f"run {run.label} was begun by an earlier task of this worker of Ray, which has not ended it: it is ended "
        "now. End a run where it was begun, with `with sdk.start_run():`",
        once=("left behind", run.id),
    )
    run.handle.end("FINISHED", 0.0)
    return True
