"""Where a program is, also when the system does not know it any more: a working directory that was deleted, no home.

Nothing here raises or creates anything, but what is called `make_…`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tailrace_agent.files.ownership import is_own, make_private

__all__ = [
    "absolute",
    "is_nowhere",
    "make_temporary_state_dir",
    "may_enter",
    "temporary_state_dir",
    "working_directory",
]

_last = "/"
_unguessable = os.urandom(8).hex()  # one for the life of the process, so that two calls name the same directory


def working_directory() -> str:
    """The working directory; the last one that there was, if it is gone or may not be read."""
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
    """Where state is kept when the user's own directory cannot be had: it lasts until the next reboot.

    Others may have made a directory of that name. Then it is another of this user's, or, where there is none yet, one
    whose name nobody can know beforehand.
    """
    import tempfile  # 8 ms, and seldom needed

    usual = Path(tempfile.gettempdir(), f"tailrace-state-{os.getuid()}")
    if is_own(usual):
        return usual
    for other in sorted(usual.parent.glob(f"{usual.name}-*")):
        if is_own(other):
            return other
    return usual.with_name(f"{usual.name}-{_unguessable}") if os.path.lexists(usual) else usual


def make_temporary_state_dir() -> Path:
    """That directory, made if it is missing.

    Raises:
        OSError: It cannot be made.
    """
    directory = temporary_state_dir()
    try:
        if not is_own(directory):
            make_private(directory)
    except FileExistsError:  # it was made in between: there is another of this user's now, or a name that nobody knows
        directory = temporary_state_dir()
        if not is_own(directory):
            make_private(directory)
    return directory


# At the import, when it most likely still exists: later calls fall back to it.
working_directory()
