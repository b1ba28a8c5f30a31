"""Closer looks at what has a chart: the steps that are to be seen are read once more, as finely as it goes.

A chart shows what an agent has kept, 256 spans, or some points of a store. Zoomed in, its window is read; and of a
store that finds extremes quickly also the whole of what was sampled, so that no spike is missing. What takes longer
than a moment is read in pieces, and shown once it is whole. Only what is on the screen is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from tailrace_agent.errors import TailraceError
from tailrace_agent.ipc.curves import Curve, Span
from tailrace_agent.reading.read_store import Point
from tailrace_agent.top.courses import Course, closer

if TYPE_CHECKING:
    from tailrace_agent.reading.reader import Reader

__all__ = ["Window", "Windows"]

_SPANS: Final = 1024
_POINTS: Final = 2_500
_BESIDE: Final = 0.25
"""Of a window, what is read on each side of it, so that a small move needs no other look."""
_TOO_WIDE: Final = 3.0
"""Times its window that what was read may be long, before it is read again closer."""
_EVERY: Final = 5.0
_PAUSE: Final = 0.2
_KEPT: Final = 32
"""Metrics of which that is kept: some pages of charts."""
_NS: Final = 1_000_000


class Window(NamedTuple):
    """What is to be seen of a metric.

    Attributes:
        key: The run, as in the list.
        metric: Its name.
        uri: The store, with what it takes to log in.
        run_id: MLflow's id.
        first: First step.
        last: Last step.
        all: Whether these are all steps: then extremes alone are wanted.
        live: Whether more may come.
    """

    key: str
    metric: str
    uri: str
    run_id: str
    first: int
    last: int
    all: bool
    live: bool


class _Mark(NamedTuple):
    """What a look is kept by: that at all steps stays while a window is looked at."""

    key: str
    metric: str
    all: bool


class _Look:
    """What is read for a window, and a little more on each side."""

    def __init__(self, window: Window) -> None:
        beside = 0 if window.all else int((window.last - window.first) * _BESIDE) + 1
        self.first, self.last, self.all = window.first - beside, window.last + beside, window.all
        self.curve = Curve(_SPANS)
        self.line: Sequence[Span] = ()
        self.begun = self.done = self.sampled = False
        self.onwards = self.first
        self.read_at = -1e9

    def serves(self, window: Window) -> bool:
        """Whether it is as good as one that is made for another window."""
        if self.all:
            return True
        every_step = self.done and not self.sampled and self.curve.width == 1
        close = self.last - self.first <= _TOO_WIDE * max(1, window.last - window.first)
        return self.first <= window.first and window.last <= self.last and (every_step or close)

    def read(self, reader: Reader, window: Window, now: float) -> None:
        """Reads the next piece; once all is done, what has come since."""
        of_metric = window.run_id, window.metric
        if self.done or not (self.begun or self.all):
            after = self.curve.last[0] + 1 if self.curve.last is not None else self.first
            points, whole = reader.thinned(*of_metric, _POINTS, after, None if self.all else self.last)
            self._add(points)
            self.onwards, self.done, self.sampled = after, whole, self.sampled or not whole
            self.last = max(self.last, points[-1][0]) if points else self.last
        else:
            width = max(1, (self.last - self.first) // _SPANS)
            peaks = reader.peaks(*of_metric, width, self.onwards, self.last)
            if peaks is not None:
                self._add(peaks.points)
                self.onwards, self.sampled = peaks.onwards or self.onwards, False
            self.done = peaks is None or peaks.onwards is None
        self.begun = True
        if self.done:
            self.line, self.read_at = self.curve.line, now

    def _add(self, points: Sequence[Point]) -> None:
        self.curve.add([(step, time_ms * _NS, value) for step, time_ms, value in points])


class Windows:
    """Reads windows, and draws them into courses.

    Args:
        reader: The store of a URI, opened.

    Attributes:
        fault: Why nothing can be read at the moment.
        version: Grows with everything that can be drawn.

    Thread safety: `step` from one thread, all else from another one.
    """

    def __init__(self, reader: Callable[[str], Reader]) -> None:
        self.fault: str | None = None
        self.version = 0
        self._reader = reader
        self._lock = threading.Lock()
        self._wanted: Sequence[Window] = ()
        self._reading: dict[_Mark, _Look] = {}
        self._ready: dict[_Mark, tuple[_Look, Sequence[Span], bool]] = {}
        self._drawn: dict[_Mark, tuple[Course, Sequence[Span], Course]] = {}

    def want(self, wanted: Sequence[Window]) -> None:
        """These are on the screen, the last of them first."""
        with self._lock:
            self._wanted = wanted
            if not wanted:
                self.fault = None

    @property
    def idle(self) -> bool:
        """Whether all that is wanted was read, or cannot be."""
        with self._lock:
            marks = [(window, _Mark(window.key, window.metric, window.all)) for window in self._wanted]
            looks = [(window, self._ready[mark][0] if mark in self._ready else None) for window, mark in marks]
        return self.fault is not None or all(look is not None and look.serves(window) for window, look in looks)

    def closer(self, key: str, courses: Mapping[str, Course]) -> Mapping[str, Course]:
        """The courses of a run, with what was read of those that are on the screen drawn in."""
        found = dict(courses)
        with self._lock:
            metrics = [(window.metric, window.all) for window in self._wanted if window.key == key]
            marks = [
                _Mark(key, metric, all_)
                for metric, only_all in metrics
                for all_ in ((True,) if only_all else (True, False))
            ]
            ready = {mark: self._ready[mark] for mark in marks if mark in self._ready}
        for mark, (_, line, sampled) in ready.items():  # a window is drawn over all that is known
            if mark.metric in found and line:
                found[mark.metric] = self._closer(mark, found[mark.metric], line, sampled=sampled)
        return found

    def step(self, now: float) -> float:
        """Reads one piece; when to be called again (monotonic seconds)."""
        with self._lock:
            wanted = self._wanted
        for window in reversed(wanted):
            mark = _Mark(window.key, window.metric, window.all)
            look = self._ready[mark][0] if mark in self._ready else None
            if look is not None and look.serves(window):
                if not window.live or now < look.read_at + _EVERY:
                    continue
            else:
                look = self._reading.get(mark)
                if look is None or not look.serves(window):
                    look = self._reading[mark] = _Look(window)
            try:
                look.read(self._reader(window.uri), window, now)
            except TailraceError as error:
                self.fault = str(error)
                return now + _EVERY
            self.fault = None
            if look.done:
                self._publish(mark, look)
            return now
        return now + _PAUSE

    def _publish(self, mark: _Mark, look: _Look) -> None:
        self._reading.pop(mark, None)
        with self._lock:
            self._ready.pop(mark, None)
            self._ready[mark] = look, look.line, look.sampled
            while len(self._ready) > _KEPT:  # the oldest, whose chart was turned away from
                del self._ready[next(iter(self._ready))]
        self.version += 1

    def _closer(self, mark: _Mark, course: Course, line: Sequence[Span], *, sampled: bool) -> Course:
        """The same object as long as nothing is new, so that a chart that is drawn stands."""
        known = self._drawn.get(mark)
        if known is None or known[0] is not course or known[1] is not line:
            while len(self._drawn) >= _KEPT:
                del self._drawn[next(iter(self._drawn))]
            known = self._drawn[mark] = course, line, closer(course, line, sampled=sampled)
        return known[2]
