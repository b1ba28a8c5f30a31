"""The largest file that a process may write (`ulimit -f`): SQLite calls it an I/O error, and names no mend."""

from __future__ import annotations

import errno
import resource
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["explained", "raise_limit"]

_NEAR: Final = 1 << 20
"""A file that is so close to the limit (bytes) has most likely met it."""


def raise_limit() -> None:
    """As far as the system allows, for this process and what it starts: nobody meant the agent's spool."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with suppress(OSError, ValueError):  # then it stays, and is named when it is met
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def explained(error: Exception, directory: Path) -> str:
    """An error's message, and the limit and the mend where it is this one.

    Args:
        error: Of SQLite or the system, from writing in the directory.
        directory: Where the files are.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY or not _meets(error, directory, limit):
        return str(error)
    return (
        f"{error}: no file may be larger than {limit:,} bytes here. Start the program with a higher limit (ulimit -f "
        "unlimited); what it has logged is kept, and `tailrace sync` delivers it from a shell without the limit"
    )


def _meets(error: Exception, directory: Path, limit: int) -> bool:
    if isinstance(error, OSError):  # CPython ignores SIGXFSZ, so the write fails, and nobody is killed
        return error.errno == errno.EFBIG
    sizes = [0]
    with suppress(OSError):
        sizes = [path.stat().st_size for path in directory.glob("spool.db*")] or [0]
    # SQLite reports any failed write as "disk I/O error": only the size tells.
    return isinstance(error, sqlite3.Error) and max(sizes) + _NEAR > limit
