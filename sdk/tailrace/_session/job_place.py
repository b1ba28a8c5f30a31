"""The job that this process is a part of, and the session that the job's processes share on a node.

The first process of a job on a node makes the session, alone in the job's directory; the others join it. So there is
one agent on a node, whatever the number of ranks. What is found in the environment is this process's own: a child of a
rank has the same variables, and is no rank (`TAILRACE_RANK` says whose they are).
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import msgspec

from tailrace._session.connection import Connection
from tailrace_agent.errors import SessionError, StateDirError
from tailrace_agent.ipc.job_dir import JobDir
from tailrace_agent.runtime.job import Job, find_job, why_none
from tailrace_agent.runtime.processes import Process, boot_id, process
from tailrace_agent.settings.settings import Settings, shown
from tailrace_agent.settings.table import TABLE

if TYPE_CHECKING:
    from tailrace._messages.voice import Voice

__all__ = ["NODE", "RANK", "open_shared", "this_job"]

NODE: Final = "node"
"""The key of the session that all programs of a user share on a machine, with `agent="node"`."""
RANK: Final = "TAILRACE_RANK"
"""The variable by which the children of a rank know that they are none: `<rank>:<process id>:<key>`."""
_forked = False


def this_job(named: str | None, voice: Voice) -> Job | None:
    """The job that this process is a rank of.

    Args:
        named: What its program calls the job.
        voice: Prints lines and warnings.
    """
    if _forked:  # its parent is the rank
        return None
    job = find_job(os.environ, parent=_parent, boot=boot_id, named=named)
    if job is None:
        if (reason := why_none(os.environ)) is not None:
            voice.warn(reason, once="no job")
        return None
    if _is_below_a_rank(job):
        return None
    os.environ[RANK] = f"{job.rank}:{os.getpid()}:{job.key}"
    return job


def open_shared(settings: Settings, voice: Voice, key: str) -> Connection:
    """This process's connection to the session of a job on this node, which is made if it is the first.

    Raises:
        StateDirError: State can be kept nowhere.
        SessionError: No ring can be made.
    """
    directory = JobDir(settings, key)
    with ExitStack() as stack:
        try:
            directory.make()
            stack.enter_context(directory.alone())
        except (StateDirError, OSError) as error:
            voice.warn(f"the processes of this job share no agent: {error}", once="no job directory")
            return Connection.open(settings, voice)
        session = directory.session
        if session is not None:
            try:
                connection = Connection.open(settings, voice, session)
            except SessionError:  # it is over, or another connection of this very process
                pass
            else:
                _warn_of_differences(settings, connection.session.info.settings, voice)
                return connection
        connection = Connection.open(settings, voice)
        try:
            directory.note_session(connection.session.dir)
        except OSError as error:
            voice.warn(f"the processes of this job share no agent: {error}", once="no job directory")
        return connection


def _is_below_a_rank(job: Job) -> bool:
    rank, _, rest = os.environ.get(RANK, "").partition(":")
    pid, _, key = rest.partition(":")
    # Another rank: a launcher that is a rank itself (Lightning's) starts the others from there.
    return key == job.key and rank == str(job.rank) and pid != str(os.getpid())


def _parent() -> Process:
    return process(os.getppid())


def _warn_of_differences(mine: Settings, theirs: Settings, voice: Voice) -> None:
    """Says which settings of this process are not those of the agent that it shares."""
    differing = [
        f"{name} ({shown(getattr(mine, name), name)} here, {shown(getattr(theirs, name), name)} there)"
        for name, setting in TABLE.items()
        if setting.scope == "agent" and name != "dir" and _differs(name, mine, theirs)
    ]
    if differing:
        voice.warn(
            "the agent of this job on this machine was started by another process, with other settings: "
            f"{', '.join(differing)}. Those of the agent hold.",
            once="settings of the job",
        )


def _differs(name: str, mine: Settings, theirs: Settings) -> bool:
    # A session's files hold no password; `ring_dir` may have been changed where there was no room.
    if name in ("alert_urls", "alert_webhook", "ring_dir"):
        return False
    masked = msgspec.structs.replace(mine, agent=theirs.agent) if mine.agent in ("process", "node") else mine
    return bool(getattr(masked, name) != getattr(theirs, name))


def _after_fork_in_child() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork_in_child)
