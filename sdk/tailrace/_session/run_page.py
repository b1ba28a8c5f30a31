"""What the processes of a session share about runs, in a page of shared memory that costs nothing to read.

The process that began a session points the others at its active run, and whoever ends a run records that there. A
child that logs to the run of its parent looks at the first word with each call (`Channel.watch`), and closer only when
it has changed.

Layout, in 64-bit words: 0 changes with every change (a time in nanoseconds), 1 the active run (0 for none), then a
table of runs that have ended, by their number; a later run may take the place of an earlier one. A file beside it names
the run that is active in another session of the same program, which has other settings; word 1 is 0 then.

Thread safety: all of it from any thread and any process.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from tailrace_agent.files.descriptors import map_kept, reserve
from tailrace_agent.files.ownership import open_own, read_own, write_own

__all__ = ["RunsPage", "map_words"]

_BYTES: Final = 4096  # one page of memory on most machines
_CHANGED, _ACTIVE, _ENDED = 0, 1, 2
_ROOM: Final = _BYTES // 8 - _ENDED


class RunsPage:
    """The page of one session.

    Args:
        shared: The session's directory in shared memory.

    Attributes:
        words: For `Channel.watch`.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, shared: Path) -> None:
        self.words = map_words(shared / "runs.page", _BYTES)
        self._elsewhere = shared / "runs.elsewhere"

    @property
    def changed(self) -> int:
        """Another number after each change."""
        return self.words[_CHANGED]

    @property
    def active(self) -> int:
        """The run of this session that is active in the process that began it; 0 for none."""
        return self.words[_ACTIVE]

    def point_at(self, run: int) -> None:
        """The run that is active from now on; for the process that began the session."""
        # Each change costs all children a closer look.
        if self.words[_ACTIVE] != run:
            self.words[_ACTIVE] = run
            # Second: whoever sees the change must find the run.
            self.words[_CHANGED] = time.time_ns()

    def point_elsewhere(self, session: str, run: int) -> None:
        """The run that is active from now on is one of another session.

        Raises:
            OSError: There is no room for the file.
        """
        new = self._elsewhere.with_suffix(".new")
        write_own(new, f"{run}\n{session}".encode(errors="surrogateescape"))
        # By a rename: a child reads it at any moment, and half a path would be another session's.
        new.replace(self._elsewhere)
        # Else the run that was active here would stand in its way, also when it has ended.
        self.words[_ACTIVE] = 0
        self.words[_CHANGED] = time.time_ns()

    def elsewhere(self) -> tuple[str, int] | None:
        """The session and the run that `point_elsewhere` has named last."""
        try:
            run, _, session = read_own(self._elsewhere).decode(errors="surrogateescape").partition("\n")
            return session, int(run)
        except (OSError, ValueError):  # none was
            return None

    def following(self) -> tuple[int, str | None] | None:
        """The run that is active now, and its session where that is another one; None without one that goes on.

        Of a run of another session only that session's page says whether it goes on.
        """
        active = self.active
        # It may still be the one that has just ended.
        if active and not self.has_ended(active):
            return active, None
        elsewhere = self.elsewhere()
        return None if elsewhere is None else (elsewhere[1], elsewhere[0])

    def end(self, run: int) -> None:
        """A run has ended."""
        # A word that is aligned is stored as a whole, so no lock is needed; before the change, as in `point_at`.
        self.words[_ENDED + run % _ROOM] = run
        self.words[_CHANGED] = time.time_ns()

    def has_ended(self, run: int) -> bool:
        """Whether a run has; False also when it is long ago and many others have ended since."""
        return self.words[_ENDED + run % _ROOM] == run


def map_words(path: Path, size: int) -> memoryview[int]:
    """64-bit words in a file, which is made if it is missing, for all processes that map it.

    Raises:
        OSError: It cannot be opened, or there is no room.
    """
    fd = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        # Two processes may both find it too small: to reserve twice changes nothing that is there.
        if os.fstat(fd).st_size < size:
            reserve(fd, size)  # a page that cannot be had would be a SIGBUS later
        return memoryview(map_kept(fd, size)).cast("Q")
    finally:
        os.close(fd)
