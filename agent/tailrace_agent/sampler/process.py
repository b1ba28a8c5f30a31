"""The training process and its children: CPU, memory, threads, open files, I/O.

Children come and go, and what they did must not be lost or counted twice:

* The kernel adds a child's CPU time and I/O to those of the process that waits for it. So what a child was last seen
  with is taken off when it has gone, and a child that lived too shortly to be seen still counts.
* Nobody looks for children while the kernel has given out no new process id. Then only processes that have appeared
  since the last look have their parent read, so that finding them costs about the same on a machine with thousands.
* Many children are sampled less often, so that the whole costs about the same however many data loaders there are.

What one process does not show (that of another user, say) is absent, and so is a sum that it would be part of.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import psutil

from tailrace_agent.sampler.family_member import Member
from tailrace_agent.sampler.rates import SHORTEST, Rates
from tailrace_agent.sampler.source import SourceGone

__all__ = ["ProcessSource"]

_MEGA: Final = 1e6
_LIST_EVERY: Final = 2.0  # seconds; a child that lives shorter may never be seen, and its CPU time still counts
_LIST_ANYWAY: Final = 10.0
_CHILDREN_PER_SECOND: Final = 5.0  # that are read: 40 data loaders are sampled each 8 s
_DETAILS_EVERY: Final = 5.0
_USS_EVERY: Final = 30.0
_USS_PAUSE: Final = 1000.0
"""Times as long as it took: a USS is read from page tables, and a big process has many."""
_PROC: Final = Path("/proc")
_LOADAVG: Final = _PROC / "loadavg"


class ProcessSource:
    """Figures of the training process (`process_…`) and sums over its children (`process_children_…`).

    Args:
        pid: The training process; None means this one.
        clock: Seconds, to time what is dear.
    """

    name = "process"
    every = 0.0

    def __init__(self, pid: int | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._pid = pid or os.getpid()
        self._clock = clock
        self._family: _Family | None = None

    def sample(self, now: float) -> dict[str, float]:
        """See `Source`."""
        try:
            if self._family is None:
                self._family = _Family(psutil.Process(self._pid), self._clock)
            return self._family.sample(now)
        except psutil.NoSuchProcess:
            self.close()
            raise SourceGone(f"the process {self._pid} has ended") from None

    def tags(self) -> dict[str, str]:
        """See `Source`."""
        return {}

    def totals(self) -> dict[str, float]:
        """See `Source`."""
        return {}

    def close(self) -> None:
        """See `Source`."""
        self._family = None


class _Family:
    """A process and its descendants, for as long as it lives: then its methods raise `psutil.NoSuchProcess`."""

    def __init__(self, process: psutil.Process, clock: Callable[[], float]) -> None:
        self._main, self._clock = Member(process, 0), clock
        self._children: dict[int, Member] = {}
        self._known: frozenset[int] = frozenset()
        self._births = _Births()
        self._list_at = self._list_anyway_at = self._children_at = self._details_at = -math.inf
        self._rates, self._detail_rates = Rates(), Rates()
        self._main_io = _Bytes()
        self._ended: list[Member] = []
        self._sums: _Sums | None = None
        self._owed = 0.0
        self._had_children = False
        self._uss_at = -math.inf
        self._uss_queue: list[Member] = []
        self._uss_sum: float | None = 0.0

    def sample(self, now: float) -> dict[str, float]:
        if now >= self._list_at:
            self._list_at = now + _LIST_EVERY
            if self._births.some() or now >= self._list_anyway_at:
                self._list_anyway_at = now + _LIST_ANYWAY
                self._find_children()
        self._main.read()
        # A zombie's files in /proc are still there, until the shell or launcher that began it waits for it.
        if self._main.stat.zombie:
            raise psutil.NoSuchProcess(self._main.pid)
        details = now >= self._details_at
        if details:
            self._details_at = now + _DETAILS_EVERY
            self._main.read_details()
        # In this order: what a child did can then be known before the kernel has added it to its parent, never later.
        self._notice_ends()
        values = self._of_main(now) | (self._details(now) if details else {})
        if now >= self._children_at:
            values |= self._of_children(now)
        return values | self._uss(now)

    def _find_children(self) -> None:
        if not self._main.process.is_running():  # its number may be another's by now
            raise psutil.NoSuchProcess(self._main.pid)
        pids = frozenset(psutil.pids())
        # Without the agent itself, which a trainer has started, too.
        new = pids - self._known - {self._main.pid, os.getpid()}
        if not self._known:  # all are new: psutil's own way takes a quarter of the time
            new &= {child.pid for child in self._main.process.children(recursive=True)}
        parents: dict[int, tuple[int, psutil.Process]] = {}
        for pid in new:
            try:
                process = psutil.Process(pid)
                parents[pid] = process.ppid(), process
            except psutil.Error:
                continue
        self._known = pids
        found = True
        while found:  # a generation at a time
            found = False
            for pid, (parent, process) in list(parents.items()):
                # Who was orphaned before this look is init's child by now, and not found.
                if parent == self._main.pid or parent in self._children:
                    self._children[pid] = Member(process, parent)
                    del parents[pid]
                    found = True

    def _notice_ends(self) -> None:
        ended = [member for member in self._children.values() if not _exists(member.pid)]
        for member in ended:
            del self._children[member.pid]
        self._ended += ended  # until `_of_children` has taken them off the sums, which may be ticks later
        gone = {member.pid: member for member in self._ended}
        self._main_io.credit(
            sum(member.io[0] for member in ended if member.io and self._falls_to_main(member, gone)),
            sum(member.io[1] for member in ended if member.io and self._falls_to_main(member, gone)),
        )

    def _falls_to_main(self, member: Member, gone: dict[int, Member]) -> bool:
        """Whether what a process did is now added to the main process, rather than to another descendant."""
        for _ in range(len(gone) + 1):  # ids that were used again could make a circle
            if member.parent not in gone:
                break
            member = gone[member.parent]
        return member.parent == self._main.pid

    def _of_main(self, now: float) -> dict[str, float]:
        main = self._main
        rates = self._rates.update(now, {"process_cpu_utilization_percentage": 100 * main.stat.own})
        return {"process_memory_rss_megabytes": main.stat.rss / _MEGA, **rates}

    def _details(self, now: float) -> dict[str, float]:
        main = self._main
        counters = main.waits()
        if main.io is not None:
            read, written = self._main_io.update(*main.io)
            counters["process_read_megabytes_per_second"] = read / _MEGA
            counters["process_write_megabytes_per_second"] = written / _MEGA
        values = {"process_threads_count": float(main.threads)}
        if main.files is not None:
            values["process_open_files_count"] = float(main.files)
        return values | self._detail_rates.update(now, counters)

    def _of_children(self, now: float) -> dict[str, float]:
        if self._sums is not None and now - self._sums.at < SHORTEST:
            return {}
        for member in list(self._children.values()):
            try:
                member.read()
                member.read_details()
            except psutil.NoSuchProcess:  # since `_notice_ends`; it will notice
                continue
        members = list(self._children.values())
        self._children_at = now + len(members) / _CHILDREN_PER_SECOND  # after the reading: of as many as there were
        values = {"process_children_count": float(sum(not member.stat.zombie for member in members))}
        before, self._sums = (
            self._sums,
            _Sums(now, self._main.stat.reaped, {member.pid: member.total for member in members}),
        )
        ended, self._ended = self._ended, []
        # Once there were some, a chart falls to 0; a program that never had any gets no charts of zeros.
        self._had_children = self._had_children or bool(members)
        if not self._had_children:
            return values
        values["process_children_memory_rss_megabytes"] = sum(member.stat.rss for member in members) / _MEGA
        values["process_children_threads_count"] = float(sum(member.threads for member in members))
        files = _sum(member.files for member in members)
        if files is not None:
            values["process_children_open_files_count"] = float(files)
        if before is not None:
            values |= self._children_rates(before, members, ended, now - before.at)
        for member in members:
            member.settle()
        return values

    def _children_rates(
        self, before: _Sums, members: list[Member], ended: list[Member], elapsed: float
    ) -> dict[str, float]:
        seen = [member for member in members if member.pid in before.totals]
        own = sum(member.stat.own - member.own_before for member in seen)
        # With the time of children that have ended in between, seen or not: it is in `reaped` of who waited for them.
        whole = self._main.stat.reaped - before.reaped  # of children only: the main process's own is in `own`
        whole += sum(member.total - before.totals[member.pid] for member in seen) - sum(one.total for one in ended)
        # One that ended while this was being read is taken off before it was added: owed until the next time.
        owed, self._owed = self._owed, max(0.0, own - whole)
        # Counters of different processes are not read at one moment, and could sum to more than there is.
        most = 100.0 * (psutil.cpu_count() or 1)
        values = {"process_children_cpu_utilization_percentage": min(most, 100 * max(own, whole - owed) / elapsed)}
        gone = {member.pid: member for member in ended}
        inherited = [one for one in ended if not self._falls_to_main(one, gone)]
        for name, index in (("read", 0), ("write", 1)):
            moved = _sum(member.moved(index) for member in seen)
            if moved is not None:
                moved -= sum(one.io[index] for one in inherited if one.io)
                values[f"process_children_{name}_megabytes_per_second"] = max(0, moved) / _MEGA / elapsed
        return values

    def _uss(self, now: float) -> dict[str, float]:
        """One process a tick, so that no tick waits for all; the children's sum when the last has been read."""
        if now < self._uss_at:
            return {}
        # The main process last put in, so first taken out: its figure does not wait for the children's.
        if not self._uss_queue:
            self._uss_queue, self._uss_sum = [*self._children.values(), self._main], 0.0
        member = self._uss_queue.pop()
        begun = self._clock()
        uss = member.uss()
        pause = _USS_PAUSE * (self._clock() - begun)
        self._uss_at = now + (pause if self._uss_queue else max(_USS_EVERY, pause))
        values: dict[str, float] = {}
        if member is self._main:
            if uss is not None:
                values["process_memory_uss_megabytes"] = uss / _MEGA
            return values
        self._uss_sum = None if uss is None or self._uss_sum is None else self._uss_sum + uss
        if not self._uss_queue and self._uss_sum is not None:
            values["process_children_memory_uss_megabytes"] = self._uss_sum / _MEGA
        return values


class _Births:
    """Whether processes have appeared, known from the last process id that the kernel gave out (psutil has none)."""

    def __init__(self) -> None:
        self._last = b""
        self._moves = False

    def some(self) -> bool:
        """False when none has appeared since the last call. Where the id never moves (some sandboxes): True."""
        before, self._last = self._last, _last_pid()
        moved = before != self._last
        self._moves = self._moves or (moved and before != b"")
        return moved or not self._moves


class _Sums:
    """What the children's counters were at one time."""

    def __init__(self, at: float, reaped: float, totals: dict[int, float]) -> None:
        self.at, self.reaped, self.totals = at, reaped, totals


class _Bytes:
    """What the main process itself has read and written: its counters without what ended children have left it.

    A credit that finds nothing to be taken from is kept for one more update, and then forgotten: the child was
    somebody else's to wait for.
    """

    def __init__(self) -> None:
        self._before: tuple[int, int] | None = None
        self._own = [0, 0]
        self._fresh = [0, 0]
        self._kept = [0, 0]

    def credit(self, read: int, written: int) -> None:
        """Children that have ended had read and written this."""
        self._fresh[0] += read
        self._fresh[1] += written

    def update(self, read: int, written: int) -> tuple[int, int]:
        """The counters as the kernel has them; those of the process itself."""
        before, self._before = self._before or (read, written), (read, written)
        for index, now in enumerate((read, written)):
            grown = max(0, now - before[index])
            credit = self._fresh[index] + self._kept[index]
            used = min(grown, credit)
            self._own[index] += grown - used
            self._kept[index] = min(self._fresh[index], credit - used)
        self._fresh = [0, 0]
        return self._own[0], self._own[1]


def _sum(values: Iterable[int | None]) -> int | None:
    """Their sum, or None when one is missing."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _last_pid() -> bytes:
    try:
        return _LOADAVG.read_bytes().rpartition(b" ")[2]
    except OSError:
        return b""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # one system call; psutil would read a file for each child, at each tick
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
