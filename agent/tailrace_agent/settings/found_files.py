"""Files that nobody has named: what is found by looking upwards from the working directory, and may be believed.

A settings file decides where metrics, artifacts and tokens go. So one that is found is believed as git believes a
repository: it and its directory belong to this user or to root, and nobody else may write to them; under sudo they may
be the caller's. Of a link its target's owner counts. What is not believed is left out, with one warning, and nothing
above is looked at: where somebody else may write, they choose what is found there. A file that was named is read.

Thread safety: every function from any thread.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from tailrace_agent.errors import SettingsError
from tailrace_agent.files.descriptors import NONE_LEFT
from tailrace_agent.files.ownership import why_not_believed
from tailrace_agent.runtime.places import may_enter

__all__ = ["fault_of_directory", "read_found"]

_MOST: Final = 16 << 20
"""Bytes that a settings file may have: somebody's `pyproject.toml` is read only to find out that it is not ours."""
_warned: set[str] = set()


def fault_of_directory(directory: Path) -> str | None:
    """Why files that are found in a directory are not believed; None if they are, or if there are none."""
    try:
        return why_not_believed(directory.stat())
    except OSError:  # gone, or not to be looked at: nothing is found there
        return None


def read_found(path: Path, fault: str | None, *, about: bytes = b"") -> bytes | None:
    """What a file holds that was found and not named; None if there is none, or if it is not believed.

    Args:
        path: Where it may be.
        fault: Of its directory.
        about: A file without these bytes in it is not looked for.

    Raises:
        SettingsError: It cannot be read.
        OSError: This process has no descriptor left.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would keep the program waiting
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in NONE_LEFT:  # no fault of the file
            raise
        if fault is not None or not may_enter(path.parent):  # it is not for this user to know
            return None
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(fd)  # of what is open, which nobody can exchange any more
        data = _content(fd) if stat.S_ISREG(found.st_mode) else None
    finally:
        os.close(fd)
    if data is None or about not in data:
        return None
    if fault is None and (own := why_not_believed(found)) is None:
        return data
    what, reason = (path.parent, fault) if fault is not None else (path, own)
    _warn(
        path,
        f"{path} is ignored: {what} {reason}, so somebody else may say where metrics and credentials go. If it is "
        f"yours: chown it, and `chmod go-w {what}`; or name what is in it, as TAILRACE_* variables or arguments",
    )
    return None


def _content(fd: int) -> bytes:
    """All of it; of a huge one the beginning, and the error of TOML names where it was cut."""
    with os.fdopen(fd, "rb", closefd=False) as file:
        return file.read(_MOST)


def _warn(path: Path, text: str) -> None:
    if str(path) in _warned:  # each run of a program looks for it
        return
    _warned.add(str(path))
    import logging  # not before there is something to report

    logging.getLogger("tailrace").warning("tailrace: %s", text)
