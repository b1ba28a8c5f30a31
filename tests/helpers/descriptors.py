"""The descriptors that this process has open, for tests of what is left open."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def open_descriptors() -> set[tuple[int, int, int]]:
    """Each with the file behind it: its number, the device and the inode.

    To be compared by `<=`. What earlier tests left behind may be collected, and closed, at any moment.
    """
    found = set()
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # the listing's own
            status = os.fstat(int(entry.name))
            found.add((int(entry.name), status.st_dev, status.st_ino))
    return found
