"""Processes that outlive whoever starts them: nobody's child, in a session of their own.

Ray and others kill a process together with its children, `os.wait()` in a program is for the children that the program
has made, and Ctrl-C in a terminal is for the program. Thread safety: every function from any thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from tailrace_agent.runtime.originals import original

__all__ = ["start_detached"]

_SHELL: Final = "/bin/sh"


def start_detached(
    command: Sequence[str], environment: Mapping[str, str], files: Sequence[tuple[Any, ...]], given: int | None = None
) -> int:
    """Starts a command as nobody's child; the group that it is in, which nobody else has.

    Not by `subprocess`: no hook of the program runs in between, gevent's included.

    Args:
        command: With the path of the program first.
        environment: All of it.
        files: What is opened and copied on the way, see `os.posix_spawn`.
        given: Descriptor that becomes its standard input; without, that is `/dev/null`.

    Raises:
        OSError: No process can be started.
    """
    if not os.access(command[0], os.X_OK):  # found out later, it would be a start that nobody sees fail
        raise FileNotFoundError(errno.ENOENT, "there is no Python to start", command[0])
    program, *arguments = _detached(command, given)
    start = partial(
        os.posix_spawn,
        program,
        [program, *arguments],
        environment,
        file_actions=files,
        # What a program blocks or ignores stays so through an exec.
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )
    try:
        starter = start(setsid=True)
    except NotImplementedError:  # an older system
        starter = start(setpgroup=0)
    with contextlib.suppress(ChildProcessError):  # somebody waits for all children, as event loops do
        if original("os", "waitpid")(starter, 0)[1]:
            raise OSError(errno.EAGAIN, "no process can be started")
    return starter


def _detached(command: Sequence[str], given: int | None) -> list[str]:
    """The command that leaves another one running, as nobody's child, and ends."""
    if os.access(_SHELL, os.X_OK):  # a millisecond; a Python takes ten or more, for which `start_run` would wait
        # A shell gives what it leaves running `/dev/null` as its input instead.
        return [_SHELL, "-c", '"$@" &' if given is None else f'"$@" <&{given} &', "sh", *command]
    return [sys.executable, "-IS", "-c", "import os, sys; os.fork() or os.execv(sys.argv[1], sys.argv[1:])", *command]
