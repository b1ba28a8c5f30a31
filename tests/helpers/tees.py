"""Tees between pipes of a test's own."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

from tailrace_agent.console.start import TeeProcess, start_tee
from tailrace_agent.console.tee import ANSWER_BEGUN

__all__ = ["TeeRig", "kept", "process_of"]


def kept(directory: Path) -> bytes:
    """What a tee has kept there."""
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()) if path.name.isdigit())


def process_of(tee: TeeProcess) -> psutil.Process:
    """The one process of its group."""
    (process,) = [each for each in psutil.process_iter() if _group(each.pid) == tee.group]
    return process


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return -1


class TeeRig:
    """A tee, and the ends of its pipes."""

    def __init__(self, directory: Path, streams: int = 1, beside: Path | None = None) -> None:
        self.directory = directory
        self.pipes = [(os.pipe(), os.pipe()) for _ in range(streams)]  # what is printed, and where it goes
        between = [(taken[0], on[1]) for taken, on in self.pipes]
        self.tee: TeeProcess = start_tee(directory, 1 << 20, between, beside=beside)
        for taken, on in self.pipes:
            os.close(taken[0])
            os.close(on[1])
        self.writers = [taken[1] for taken, _ in self.pipes]
        self.readers = [on[0] for _, on in self.pipes]
        assert os.read(self.tee.answers, 1) == ANSWER_BEGUN

    def end(self) -> None:
        """Closes all that is open."""
        for fd in (*self.writers, *self.readers, *self.tee[:2]):
            with contextlib.suppress(OSError):
                os.close(fd)
