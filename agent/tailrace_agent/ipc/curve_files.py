"""The courses of a run's metrics, in shared memory while somebody looks on.

Nobody looks on, as a rule, and then nothing is written. Who does says so by touching a file, every two seconds or
so; the agent that finds it fresh writes what its curves are, a file for each run, each replaced as a whole.

Both ends are here. A request is known by the time of a file's change and by nothing in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from tailrace_agent.decoding import msgpack_decoder
from tailrace_agent.files import whole_files
from tailrace_agent.files.ownership import open_own, read_own
from tailrace_agent.ipc.curves import Drawn
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.stored import UNREADABLE
from tailrace_agent.text.utf8 import encoded

__all__ = ["LOOKS_FOR", "RunCurves", "ask", "curve_file", "is_asked", "read", "write"]

LOOKS_FOR: Final = 6.0
"""Seconds for which one request holds."""
_REQUEST: Final = "curves.wanted"


class RunCurves(msgspec.Struct, kw_only=True):
    """All metrics of one run, those of the machine, too.

    Attributes:
        curves: By key, in the order in which they came.
        left_out: How many more metrics there are.
    """

    curves: dict[str, Drawn]
    left_out: int = 0


_decoder = msgpack_decoder(RunCurves)


def curve_file(shared: Path, run: int) -> Path:
    """Where the curves of a run are while somebody looks on."""
    return shared / f"run-{run_hex(run)}.curves"


def ask(shared: Path) -> None:
    """Asks the agent of a session for curves, for `LOOKS_FOR` seconds.

    Args:
        shared: The session's directory in shared memory, which is this user's.

    Raises:
        OSError: It is gone, or full.
    """
    fd = open_own(shared / _REQUEST, os.O_WRONLY | os.O_CREAT)
    try:
        os.utime(fd)
    finally:
        os.close(fd)


def is_asked(shared: Path, now: float) -> bool:
    """Whether anybody looks on; `now` in seconds since the epoch. A few microseconds."""
    try:
        age = now - os.lstat(shared / _REQUEST).st_mtime
    except OSError:
        return False
    return -LOOKS_FOR < age < LOOKS_FOR  # a clock that was set back does not make a request last


def write(shared: Path, run: int, curves: RunCurves) -> None:
    """Replaces a run's curves.

    Raises:
        OSError: They cannot be written.
    """
    whole_files.replace(curve_file(shared, run), encoded(msgspec.msgpack.encode, curves))


def read(shared: Path, run: int) -> RunCurves | None:
    """A run's curves; None while there are none, or none that this version can read."""
    try:
        return _decoder.decode(read_own(curve_file(shared, run)))
    except (OSError, *UNREADABLE):
        return None
