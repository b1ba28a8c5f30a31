"""Where a program is, also when the system does not say so any more: a working directory that was deleted, no home.

Nothing here raises or creates anything.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["absolute", "is_nowhere", "may_enter", "temporary_state_dir", "working_directory"]

_last = "/"


def working_directory() -> str:
    """The working directory; the last one that there was, if it is gone or may not be asked for."""
    global _last
    with contextlib.suppress(OSError):  # deleted, or on a file server that is away: its user means the last one
        _last = os.getcwd()  # noqa: PTH109 - a str, and no Path for each call
    return _last


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path, if relative from the working directory. Its `..` stay, as in `Path.absolute`."""
    return Path(working_directory(), path)


def is_nowhere() -> bool:
    """Whether this process's working directory was deleted."""
    try:
        os.getcwd()  # noqa: PTH109 - as above
    except OSError:
        return True
    return False


def may_enter(directory: str | os.PathLike[str]) -> bool:
    """Whether this user may look at what is in a directory."""
    return os.access(directory, os.X_OK)


def temporary_state_dir() -> Path:
    """Where state is kept when the user's own directory cannot be had: it lasts until the next reboot."""
    import tempfile  # 8 ms, and seldom needed

    return Path(tempfile.gettempdir(), f"tailrace-state-{os.getuid()}")


working_directory()
