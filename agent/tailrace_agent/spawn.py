"""Starts the agent process of a session, exactly one, from whatever process finds that there is none.

The agent's lock is taken here and handed down through exec: from this moment on, nobody else starts one. The agent
runs in a session of its own (`setsid`), so that Ctrl-C in the terminal reaches only the trainer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tailrace_agent.session import Session

if TYPE_CHECKING:
    import subprocess

__all__ = ["CREDENTIALS", "can_spawn", "spawn_agent"]

CREDENTIALS = "TAILRACE_CREDENTIALS"
"""Environment variable in which `user:password` by masked URI reaches the agent: never a file, never an argument."""

# No `-m`: it would put the working directory on the path, where a file named `mlflow.py` may lie.
_BOOT = "import sys; sys.path[:1] = []; from tailrace_agent.process_host import main; main()"


def can_spawn() -> bool:
    """Whether this interpreter knows how to start itself (embedded and frozen ones do not)."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def spawn_agent(session: Session, credentials: dict[str, str]) -> subprocess.Popen[bytes] | None:
    """Starts an agent for the session, or returns None when one lives already.

    Args:
        session: The session.
        credentials: `user:password` by masked URI.

    Raises:
        OSError: No process can be started.
    """
    import subprocess  # 10 ms, and only where an agent is started

    lock = session.try_agent_lock()
    if lock is None:
        return None
    _held.add(lock)
    try:
        with (session.dir / "agent.err").open("ab") as errors:
            os.fchmod(errors.fileno(), 0o600)
            return subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(session.dir), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                cwd=session.info.cwd if Path(session.info.cwd).is_dir() else "/",
                env=_environment(credentials),
                pass_fds=(lock,),
                start_new_session=True,
            )
    finally:
        _held.discard(lock)
        os.close(lock)


_held: set[int] = set()
"""Agent locks on their way to an agent. A child forked by another thread meanwhile would hold them after its death."""


def _drop_in_child() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_drop_in_child)


def _environment(credentials: dict[str, str]) -> dict[str, str]:
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parent.parent)
    if "site-packages" not in root:  # an editable install, or a source tree on the path
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH", "")]))
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    environment.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[threads] = "1"  # numpy comes with mlflow; its thread pools are not wanted here
    if credentials:
        environment[CREDENTIALS] = msgspec.json.encode(credentials).decode()
    return environment
