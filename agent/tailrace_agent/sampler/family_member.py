"""One process of the training's family, and what was last read of it.

On Linux one read of `/proc/<pid>/stat` has CPU time, memory, threads, page faults and whether it is a zombie. psutil
takes three calls and three files for these, twice the time, and has no page faults. All else, and all of it on other
systems, is psutil's; tests hold the one against the other. None is what a process does not show.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import psutil

__all__ = ["Member", "Stat", "read_stat"]

_TICKS: Final = float(os.sysconf("SC_CLK_TCK"))
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_STAT_SIZE: Final = 4096  # bytes; its 52 numbers take some hundreds, and one read makes them of one moment

_T = TypeVar("_T")


class Stat(NamedTuple):
    """What is read of a process each time.

    Attributes:
        own: CPU seconds, user and system.
        reaped: CPU seconds of the children that it has waited for, and of theirs.
        rss: Bytes of memory that are resident.
        threads: Their number; 0 where it takes a call of its own.
        zombie: It has ended, and nobody has waited for it yet.
        faults: Page faults that took no disk and such that did, since it began; None where they are not shown.
    """

    own: float
    reaped: float
    rss: int
    threads: int
    zombie: bool
    faults: tuple[int, int] | None


def read_stat(process: psutil.Process) -> Stat:
    """Reads a process.

    Raises:
        psutil.NoSuchProcess: It is gone.
    """
    return _from_proc(process.pid) if psutil.LINUX else _from_psutil(process)


def _from_proc(pid: int) -> Stat:
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, _STAT_SIZE)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):  # before the open; between it and the read
        raise psutil.NoSuchProcess(pid) from None
    # proc(5), from the third field on: the second is a name in parentheses, which may have any in it.
    field = text[text.rindex(b")") + 2 :].split()
    return Stat(
        own=(int(field[11]) + int(field[12])) / _TICKS,
        reaped=(int(field[13]) + int(field[14])) / _TICKS,
        rss=int(field[21]) * _PAGE,
        threads=int(field[17]),
        zombie=field[0] == b"Z",
        faults=(int(field[7]), int(field[9])),
    )


def _from_psutil(process: psutil.Process) -> Stat:
    times: Any = process.cpu_times()
    rss = process.memory_info().rss
    # A zombie holds nothing any more, and only who holds nothing can be one.
    zombie = rss == 0 and process.status() == psutil.STATUS_ZOMBIE
    return Stat(times.user + times.system, times.children_user + times.children_system, rss, 0, zombie, None)


class Member:
    """One process. Not thread-safe.

    Args:
        process: The process.
        parent: Process id of the one that has begun it.

    Attributes:
        stat: What `read` has read last.
        threads: Their number, as of `read_details`; so are `files` (open ones) and `io` (bytes read and written).
        own_before: CPU seconds, as of `settle`.
        io_before: Bytes read and written, as of `settle`.
    """

    def __init__(self, process: psutil.Process, parent: int) -> None:
        self.process, self.pid, self.parent = process, process.pid, parent
        self.stat = Stat(0.0, 0.0, 0, 0, False, None)
        self.own_before = 0.0
        self.threads = 0
        self.files: int | None = None
        self.io: tuple[int, int] | None = None
        self.io_before: tuple[int, int] | None = None

    @property
    def total(self) -> float:
        """CPU seconds, with those of children that it waited for."""
        return self.stat.own + self.stat.reaped

    def read(self) -> None:
        """Reads CPU time and memory.

        Raises:
            psutil.NoSuchProcess: It is gone.
        """
        self.stat = read_stat(self.process)

    def read_details(self) -> None:
        """Reads what is dearer: threads, open files, I/O.

        Raises:
            psutil.NoSuchProcess: It is gone.
        """
        if self.stat.zombie:  # its I/O stays as it was last read
            self.threads, self.files = 0, 0
            return
        self.threads = self.stat.threads or self.process.num_threads()
        self.files = _permitted(self.process.num_fds)
        if hasattr(self.process, "io_counters"):
            io: Any = _permitted(self.process.io_counters)
            self.io = None if io is None else (io.read_bytes, io.write_bytes)

    def settle(self) -> None:
        """What was read last is what the next reading is compared with."""
        self.own_before, self.io_before = self.stat.own, self.io

    def moved(self, index: int) -> int | None:
        """Bytes read (0) or written (1) since `settle`."""
        return None if self.io is None or self.io_before is None else max(0, self.io[index] - self.io_before[index])

    def waits(self) -> dict[str, float]:
        """Counters of page faults, and of how often the main thread was put aside for others."""
        counters: dict[str, float] = {}
        switches = _permitted(self.process.num_ctx_switches)
        if switches is not None:
            counters["process_involuntary_context_switches_per_second"] = float(switches.involuntary)
        if self.stat.faults is not None:
            minor, major = self.stat.faults
            counters["process_page_faults_per_second"] = float(minor + major)
            counters["process_major_page_faults_per_second"] = float(major)
        return counters

    def uss(self) -> int | None:
        """Bytes that would be free if this process ended."""
        try:
            read: Callable[[], Any] = getattr(self.process, "memory_footprint", None) or self.process.memory_full_info
            uss: int | None = getattr(_permitted(read), "uss", None)
        except psutil.NoSuchProcess:
            return 0
        return uss


def _permitted(read: Callable[[], _T]) -> _T | None:
    """What was read, or None when this user may not read it."""
    try:
        return read()
    except (psutil.AccessDenied, NotImplementedError, PermissionError):
        return None
