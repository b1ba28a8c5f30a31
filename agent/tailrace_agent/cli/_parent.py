"""`tailrace run -- CMD`: the parent of a job, which knows how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Final

from tailrace_agent.cli._app import Code, Fail
from tailrace_agent.errors import StateDirError
from tailrace_agent.ipc.job_dir import JobDir, Owner
from tailrace_agent.runtime.job import JOB
from tailrace_agent.runtime.processes import Fate, process
from tailrace_agent.settings.settings import Settings

__all__ = ["run_as_parent"]

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run_as_parent(settings: Settings, arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    """Runs a command as the parent of its job, and writes down how it ended: its run ends so.

    Args:
        settings: In force: they say where state is kept.
        arguments: The command.
        variables: For it, beside those of this process.

    Returns:
        The exit code, as a shell has it: 128 and the signal for one that was killed.

    Raises:
        Fail: It cannot be started, or no state can be kept.
    """
    name = os.environ.get(JOB, "").strip() or f"run-{uuid.uuid4()}"
    job = JobDir(settings, f"named:{name}")
    try:
        job.make()
        if job.owned:
            raise Fail(f"the job {name!r} has a parent already on this machine: give this one another {JOB}")
        job.own(Owner(process(os.getpid()), arguments[0]))
    except (StateDirError, OSError) as error:
        raise Fail(str(error)) from error
    # Before it begins: a signal that comes meanwhile is the command's, too.
    waiting: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if child is None:
            waiting.append(number)
        else:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        # A Ctrl-C at a terminal reaches the command by itself: it is of the same group.
        child = subprocess.Popen(arguments, env={**os.environ, **variables, JOB: name})
        for number in waiting:
            child.send_signal(number)
        code = child.wait()
    except OSError as error:
        job.end(Fate(code=127))
        raise Fail(f"{arguments[0]} cannot be run: {error.strerror}", Code.USAGE) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    job.end(Fate(signal=-code) if code < 0 else Fate(code=code))
    return 128 - code if code < 0 else code
