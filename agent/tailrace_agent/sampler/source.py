"""What the sampler needs of a source: one thing that is measured (the CPU, the GPUs, a file system, …).

A source is opened lazily, by its first `sample`, in the process and thread that samples. It never logs or
sleeps: it answers or raises, and its guard (`guard.Guarded`) decides what becomes of that.
"""

from __future__ import annotations

from typing import Protocol

from tailrace_agent.errors import TailraceError

__all__ = ["Source", "SourceGone"]


class SourceGone(TailraceError):
    """What is measured is not on this machine, or not any more. The guard goes quiet and tries again after a while."""


class Source(Protocol):
    """One thing that is measured.

    Attributes:
        name: For the log: `cpu`.
        every: Seconds between two samples of this source; 0 means each tick.
    """

    @property
    def name(self) -> str:
        """See above; one of its own among the sources of a monitor."""
        ...

    @property
    def every(self) -> float:
        """See above."""
        ...

    def sample(self, now: float) -> dict[str, float]:
        """What is measured at `now` (monotonic seconds), by names without prefix (`cpu_utilization_percentage`).

        What cannot be read is absent, never zero. A rate needs two samples, so the first one lacks it.

        Raises:
            SourceGone: It is not on this machine, or not any more.
            Exception: Anything else is a failure, and the guard's to handle.
        """
        ...

    def tags(self) -> dict[str, str]:
        """What is reported once, after the first sample that worked: device names, UUIDs; by names without prefix."""
        ...

    def totals(self) -> dict[str, float]:
        """Sums since the start, read at the end and cheap at any time: energy in joules."""
        ...

    def close(self) -> None:
        """Lets go of handles. Never raises; a later `sample` opens them again."""
        ...
