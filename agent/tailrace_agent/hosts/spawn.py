"""Starts the agent process of a session, exactly one, from whatever process finds that there is none.

The agent's lock is taken here and handed down through exec: from this moment on, nobody else starts one. The agent
runs in a session of its own (`setsid`), so that Ctrl-C in the terminal reaches only the trainer, and has none of its
files. It is nobody's child: Ray and others kill a process together with its children, and `os.wait()` in a program is
for the children that the program has made.

Credentials are what it finds on its standard input, which is a file in memory without a name: no argument, no variable
(which /proc shows for as long as the agent runs), and nothing on a disk.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from tailrace_agent.decoding import decode_json
from tailrace_agent.files.descriptors import nameless, open_kept
from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.ipc import status
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus
from tailrace_agent.runtime import interpreter
from tailrace_agent.runtime.detached import start_detached
from tailrace_agent.runtime.originals import original
from tailrace_agent.settings.plug_in import INSTALLED

__all__ = ["Agent", "can_spawn", "request_exit", "spawn_agent", "take_credentials"]

_LOCK: Final = 3
_INPUT: Final = 5
"""Where the standard input lies once more, see `runtime.detached`."""
# It closes what the program has left inheritable: a pipe that lives on there would keep its reader waiting for ever.
_BOOT = """\
import os
lock = int(sys.argv[2])
os.closerange(3, lock)
os.closerange(lock + 1, os.sysconf("SC_OPEN_MAX"))
from tailrace_agent.hosts.process import main
main()
"""


def can_spawn() -> bool:
    """Whether this interpreter knows how to start itself (embedded and frozen ones do not)."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


class Agent:
    """An agent process. It is meant to outlive us, and is not our child: whether it lives is what its lock says.

    Attributes:
        group: Its process group, which nobody else has; what it starts itself is in there, too.
    """

    def __init__(self, group: int) -> None:
        self.group = group

    def kill(self) -> None:
        """Kills it and what it has started, if they live."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)

    def reap(self) -> None:
        """Once it has ended: takes it off the list of processes, where orphans come to us as to a container's first."""
        with contextlib.suppress(ChildProcessError):  # as nearly everywhere
            original("os", "waitpid")(-self.group, os.WNOHANG)


def spawn_agent(session: Session, credentials: dict[str, str]) -> Agent | None:
    """Starts an agent for the session, or returns None when one lives already.

    Args:
        session: The session.
        credentials: `user:password` by masked URI.

    Raises:
        OSError: No process can be started.
    """
    lock = _take_lock(session)
    if lock is None:
        return None
    try:
        with contextlib.ExitStack() as opened:
            errors = open_kept(session.dir / "agent.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            opened.callback(os.close, errors)
            given = None
            if credentials:
                given = nameless(session.shared, msgspec.json.encode(credentials))
                opened.callback(os.close, given)
            group = _start(session, given, lock, errors)
    except BaseException:
        del _held[lock]
        let_go(lock)
        raise
    del _held[lock]
    os.close(lock)  # and no more: to give the lock back would take it from the agent, too
    return Agent(group)


def request_exit(session: Session) -> bool:
    """Has a session's agent process put everything into the spool and exit; whether there was one."""
    agent = status.read(session.shared / "agent.status", AgentStatus) if session.has_shared else None
    if agent is None or agent.host != "process" or not _is_agent_of(session, agent.pid):
        return False
    try:
        os.kill(agent.pid, signal.SIGTERM)
    except OSError:  # it has just died by itself
        return False
    return True


def _is_agent_of(session: Session, pid: int) -> bool:
    """Whether a process is what an agent has called its own id: in another container it is another process's."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()  # macOS does not show it
    return os.fsencode(session.dir) in command.split(b"\0")


def take_credentials() -> dict[str, str]:
    """In the agent: what it was given by whoever started it; and it is gone from there."""
    with os.fdopen(os.dup(0), "rb") as file:
        text = file.read()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return decode_json(text, dict[str, str]) if text else {}


def _start(session: Session, credentials: int | None, lock: int, errors: int) -> int:
    """Starts the agent's process; its group."""
    there = _LOCK if lock != _LOCK else _LOCK + 1  # its number in the agent; a copy of it survives the exec
    files: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        if credentials is None
        else (os.POSIX_SPAWN_DUP2, credentials, 0),
        (os.POSIX_SPAWN_DUP2, errors, 1),
        (os.POSIX_SPAWN_DUP2, errors, 2),
        (os.POSIX_SPAWN_DUP2, lock, there),
        (os.POSIX_SPAWN_DUP2, 0, _INPUT),
    ]
    # What a program blocks or ignores does not stay so: the agent is stopped by SIGTERM.
    command = interpreter.command(_BOOT, str(session.dir), str(there))
    try:
        return start_detached(command, _environment(), files, _INPUT)
    except BlockingIOError as error:
        raise OSError(error.errno, error.strerror, f"{session.dir / 'agent.err'} says why") from None


_held: dict[int, int] = {}
"""Agent locks on their way to an agent, and the thread that starts it. A child forked by another thread meanwhile would
hold them after its death."""
_wanted: dict[int, Path] = {}
"""By thread: lock files that are being opened, so that nobody knows the descriptor yet."""


def _take_lock(session: Session) -> int | None:
    thread = threading.get_ident()
    _wanted[thread] = session.shared / "agent.lock"
    try:
        lock = session.try_agent_lock()
        if lock is not None:
            _held[lock] = thread
        return lock
    finally:
        del _wanted[thread]


def _drop_in_child() -> None:
    for lock, thread in list(_held.items()):
        if thread != threading.get_ident():
            os.close(lock)
            del _held[lock]
    for thread, path in list(_wanted.items()):
        if thread != threading.get_ident():
            _close_all_of(path)
            del _wanted[thread]


def _close_all_of(path: Path) -> None:
    """Closes each descriptor of a file."""
    with contextlib.suppress(OSError):  # it is gone, or the system does not show what is open
        file = path.stat()
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers
            with contextlib.suppress(OSError):  # the one by which they were listed
                if os.path.samestat(os.fstat(int(name)), file):
                    os.close(int(name))


os.register_at_fork(after_in_child=_drop_in_child)


_OF_ONE_RUN: Final = frozenset(
    ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID", "MLFLOW_RUN_NAME")
)
"""A run's record has what these said when it began. An agent outlives that, and takes over what other programs left."""


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in interpreter.environment().items() if name not in _OF_ONE_RUN}
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"  # else it has threads of its own, and requests to elsewhere
    environment.setdefault("GIT_PYTHON_REFRESH", "quiet")  # GitPython raises at its import where there is no git
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[threads] = "1"  # numpy comes with mlflow; its thread pools are not wanted here
    # MLflow is to be MLflow's own there: the store plug-in would bring the SDK with it.
    environment.pop(INSTALLED, None)
    return environment
