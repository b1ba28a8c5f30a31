"""Where a session keeps what its programs have printed: which files there are, and what each holds.

For each process that captures its output, `console/<run>/` holds

* `console.log` (rank 0) or `rank3.log`: plain text, masked, as it goes to MLflow. The agent appends to it; once it has
  its full size, a file with the middle left out takes its place.
* `rank0.raw/`: what was printed, byte by byte, until the agent has read it. See `console.segments`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tailrace_agent.ipc.records import run_hex

__all__ = ["CRASH", "TRACEBACK", "RawDir", "console_dir", "console_file", "raw_dir", "raw_dirs"]

CRASH: Final = "crash.txt"
"""In a raw directory: what Python's `faulthandler` has to say of a crash."""
TRACEBACK: Final = "traceback.txt"
"""In a raw directory: the exception that has ended the run."""
_RAW: Final = re.compile(r"rank([0-9]{1,9})\.raw")


class RawDir(NamedTuple):
    """Where one process's output is kept as it was printed."""

    rank: int
    path: Path


def console_dir(session_dir: Path, run: int) -> Path:
    """The directory of a run's console; it is there if anything of it is captured.

    Args:
        session_dir: The session's directory.
        run: tailrace's id of the run.
    """
    return session_dir / "console" / run_hex(run)


def console_file(session_dir: Path, run: int, rank: int = 0) -> Path:
    """The text file that a person reads: complete lines, without secrets, at most a second or two old.

    It need not be there. It grows at its end; with its full size another file takes its place (a new inode), of which
    the middle is left out.
    """
    return console_dir(session_dir, run) / ("console.log" if rank == 0 else f"rank{rank}.log")


def raw_dir(session_dir: Path, run: int, rank: int) -> Path:
    """Where the output of one process is kept as it was printed."""
    return console_dir(session_dir, run) / f"rank{rank}.raw"


def raw_dirs(session_dir: Path, run: int) -> Iterator[RawDir]:
    """Those of all processes of a run."""
    try:
        entries = sorted(console_dir(session_dir, run).iterdir())
    except OSError:
        return
    for entry in entries:
        if found := _RAW.fullmatch(entry.name):
            yield RawDir(int(found[1]), entry)
