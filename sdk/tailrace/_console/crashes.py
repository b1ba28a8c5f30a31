"""What Python's `faulthandler` has to say of a crash, in a file of the session: a SIGSEGV prints nothing else.

One descriptor is its, for good; each run leads it to a file of its own, and between two runs it is standard error. So a
program that sets it up otherwise in between keeps what it has set up.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
from typing import TYPE_CHECKING

from tailrace_agent.files.descriptors import open_kept

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["rest", "watch"]

_ours: tuple[int, tuple[int, int]] | None = None
"""The descriptor, and which file it leads to."""


def watch(file: Path) -> None:
    """Has it written there from now on, unless the program has seen to it itself.

    Raises:
        OSError: The file cannot be made.
    """
    global _ours
    if _ours is None and faulthandler.is_enabled():
        return
    opened = open_kept(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if _ours is None:
        faulthandler.enable(opened)
        _ours = opened, _identity(opened)
        return
    try:
        _lead_to(opened)
    finally:
        os.close(opened)


def rest() -> None:
    """The run is over: a crash from now on is told on standard error."""
    with contextlib.suppress(OSError):  # closed
        _lead_to(2)


def _lead_to(fd: int) -> None:
    global _ours
    if _ours is None:
        return
    ours, identity = _ours
    # One that closes what it does not know, as daemons do, may have a file of its own under that number.
    if _identity(ours) == identity:
        os.dup2(fd, ours, inheritable=False)
        _ours = ours, _identity(ours)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
