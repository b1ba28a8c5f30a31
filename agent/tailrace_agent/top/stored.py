"""What stores have of runs: found out in a thread of its own, since a store may take its time, and shown as it comes.

Of each metric some points are read, spread over its steps, and later on those that have come since. Nothing is read
that nobody wants to see.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace_agent.errors import TailraceError
from tailrace_agent.ipc.curves import SPANS, Curve
from tailrace_agent.spool.extremes import machine_last
from tailrace_agent.text.directions import BEST_STEP, bests_among, is_of_another
from tailrace_agent.top.courses import Course
from tailrace_agent.top.rows import RunRow

if TYPE_CHECKING:
    from tailrace_agent.reading.reader import Reader

__all__ = ["Histories", "StoredRuns", "Wanted"]

_POINTS: Final = 2 * SPANS
_METRICS: Final = 200
_EVERY: Final = 5.0
"""Seconds between two looks at a run that goes on, and at which runs there are."""
_PAUSE: Final = 0.2
_AFTER_FAULT: Final = 5.0
_NS: Final = 1_000_000


class Wanted(NamedTuple):
    """A run whose metrics are to be seen.

    Attributes:
        key: As in the list.
        uri: Its store, with what it takes to log in.
        run_id: MLflow's id.
        live: Whether more may come.
    """

    key: str
    uri: str
    run_id: str
    live: bool


class _Known:
    """What was read of a run."""

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.lasts: dict[str, tuple[int, int]] = {}
        self.bests: dict[str, tuple[int, float]] = {}
        self.sampled: set[str] = set()
        self.unread: list[str] = []
        self.left_out = 0
        self.read_at = -1e9
        self.begun = False
        self.over = False


class Histories:
    """Reads the metrics of the runs that somebody wants to see.

    Args:
        open_reader: Opens a store.

    Attributes:
        fault: Why nothing can be read at the moment.
        version: Grows with everything that was read.

    Thread safety: `step` from one thread, all else from any.
    """

    def __init__(self, open_reader: Callable[[str], Reader]) -> None:
        self.fault: str | None = None
        self.version = 0
        self._open = open_reader
        self._readers: dict[str, Reader] = {}
        self._lock = threading.Lock()
        self._wanted: Sequence[Wanted] = ()
        self._known: dict[str, _Known] = {}
        self._courses: dict[str, dict[str, Course]] = {}

    def want(self, wanted: Sequence[Wanted]) -> None:
        """These are to be seen, the last of them first; what is known of others stays."""
        with self._lock:
            self._wanted = wanted

    @property
    def idle(self) -> bool:
        """Whether all that is wanted was read, once at least."""
        with self._lock:
            known = [self._known.get(each.key) for each in self._wanted]
        return self.fault is not None or all(each is not None and each.begun and not each.unread for each in known)

    def courses(self, key: str) -> tuple[Mapping[str, Course], int]:
        """What is known of a run by now, and how many metrics are left out."""
        with self._lock:
            known = self._known.get(key)
            return dict(self._courses.get(key, {})), known.left_out if known is not None else 0

    def reader(self, uri: str) -> Reader:
        """The store, opened once.

        Raises:
            TailraceError: It cannot be opened.
        """
        if uri not in self._readers:
            self._readers[uri] = self._open(uri)
        return self._readers[uri]

    def step(self, now: float) -> float:
        """Reads one piece; when to be called again (monotonic seconds)."""
        with self._lock:
            wanted = self._wanted
        for each in reversed(wanted):
            known = self._known.setdefault(each.key, _Known())
            due = known.unread or (not known.over and now >= known.read_at + _EVERY)
            if due:
                try:
                    self._read(each, known, now)
                except TailraceError as error:
                    self.fault = str(error)
                    return now + _AFTER_FAULT
                self.fault = None
                return now
        return now + _PAUSE

    def _read(self, wanted: Wanted, known: _Known, now: float) -> None:
        reader = self.reader(wanted.uri)
        if not known.unread:
            run = reader.get(wanted.run_id)
            lasts = _lasts(run)
            changed = [key for key, last in lasts.items() if known.lasts.get(key) != last and not is_of_another(key)]
            bests = _bests(run.data.metrics)
            news, known.bests = {key for key, best in bests.items() if known.bests.get(key) != best}, bests
            for key in news & known.curves.keys():
                self._take(wanted.key, known, key, [])
            changed.sort(key=machine_last)
            known.unread, known.left_out = changed[:_METRICS][::-1], max(0, len(lasts) - _METRICS)
            known.lasts |= {key: lasts[key] for key in known.unread}
            known.begun, known.read_at, known.over = True, now, not wanted.live and run.info.status != "RUNNING"
            return
        key = known.unread[-1]
        curve = known.curves.get(key)
        first = curve.last[0] + 1 if curve is not None and curve.last is not None else None
        points, whole = reader.thinned(wanted.run_id, key, _POINTS, first)
        known.unread.pop()  # not before it was read
        if not whole:
            known.sampled.add(key)
        if points:
            self._take(wanted.key, known, key, [(step, time_ms * _NS, value) for step, time_ms, value in points])

    def _take(self, run: str, known: _Known, key: str, points: list[tuple[int, int, float]]) -> None:
        curve = known.curves.setdefault(key, Curve())
        curve.add(points)
        last = curve.last
        if key in known.bests and last is not None and known.bests[key][0] <= last[0]:
            # The peak that a run has noted with its end need not be among the points that were read.
            curve.add([(known.bests[key][0], 0, known.bests[key][1])])
        with self._lock:
            self._courses.setdefault(run, {})[key] = Course(curve.drawn, sampled=key in known.sampled)
            self.version += 1


class StoredRuns:
    """The runs of one store, as its search gives them.

    Args:
        histories: Reads their metrics.
        uri: The store.
        names: Only these runs, as a person calls them; all that the filter finds where there are none.
        filter_: MLflow's filter.
        experiments: Only these; all where there are none.
        limit: How many at most, the newest.

    Attributes:
        uri: The store.
        rows: The runs, the newest first.
        searched: Whether the store has answered yet.
        fault: Why it has not at its last search.

    Thread safety: `step` from one thread, all else from any.
    """

    def __init__(
        self,
        histories: Histories,
        uri: str,
        names: Sequence[str] = (),
        filter_: str = "",
        experiments: Sequence[str] = (),
        limit: int = 50,
    ) -> None:
        self._histories, self.uri = histories, uri
        self._names, self._filter, self._experiments, self._limit = names, filter_, experiments, limit
        self._at = -1e9
        self._version = -1
        self.rows: list[RunRow] = []
        self.searched = False
        self.fault: str | None = None

    def courses(self, keys: Collection[str]) -> dict[str, tuple[Mapping[str, Course], int]]:
        """What is known of the metrics of some runs by now, and how many are left out; the rest will be read."""
        live = {row.key: row.live for row in self.rows}
        self._version = self._histories.version
        self._histories.want([Wanted(key, self.uri, key, live[key]) for key in keys if key in live])
        return {key: self._histories.courses(key) for key in keys}

    @property
    def more(self) -> bool:
        """Whether there may be more runs than these."""
        return not self._names and len(self.rows) >= self._limit

    @property
    def empty(self) -> str:
        """What is to be said where there are none."""
        if not self.searched:
            return "not known yet" if self.fault is None else "not known: the store does not answer"
        if self._filter:
            return "no run fits the filter"
        return "no runs in these experiments yet" if self._experiments else "no runs in this store yet"

    @property
    def changed(self) -> bool:
        """Whether more has been read."""
        return self._version != self._histories.version

    def step(self, now: float) -> float:
        """Looks which runs there are, or reads one piece; when to be called again (monotonic seconds)."""
        if now >= self._at:
            try:
                self.rows, self.fault, self.searched = self._search(), None, True
            except TailraceError as error:
                self.fault = str(error)
            # A search that takes long is not made again at once.
            self._at = time.monotonic() + _EVERY
            return now
        return self._histories.step(now)

    def _search(self) -> list[RunRow]:
        reader = self._histories.reader(self.uri)
        if self._names:
            found = reader.find_all(list(self._names), lambda *_: None)
        else:
            ids = reader.experiment_ids(self._experiments) if self._experiments else None
            found = reader.search(ids, self._filter, ["attributes.start_time DESC"], self._limit)
        return [_row(reader, run) for run in found]


def _row(reader: Reader, run: Any) -> RunRow:
    record = reader.record(run)
    lasts = [step for key, (step, _) in _lasts(run).items() if not machine_last(key)[0]]
    return RunRow(
        key=record.run_id,
        name=record.run_name or record.run_id[:8],
        state=record.status,
        live=record.status == "RUNNING",
        started=record.start_time.timestamp(),
        step=max(lasts, default=None),
        url=record.url,
        run_id=record.run_id,
    )


def _bests(metrics: Mapping[str, float]) -> dict[str, tuple[int, float]]:
    """Step and value of the best of each metric that has one."""
    bests = bests_among(metrics)
    steps = {key: metrics.get(key + BEST_STEP, math.nan) for key in bests}
    return {key: (int(steps[key]), best) for key, best in bests.items() if 0 <= steps[key] < 2**63}


def _lasts(run: Any) -> dict[str, tuple[int, int]]:
    """Step and time of the last point of each metric."""
    # MLflow's public `metrics` has no steps and times.
    return {metric.key: (metric.step, metric.timestamp) for metric in getattr(run.data, "_metric_objs", ())}
