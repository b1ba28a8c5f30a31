"""Where a frame's runs come from: this machine's sessions, or a store. What `app` and `--once` ask, whichever it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from tailrace_agent.hosts.worker import Worker
from tailrace_agent.top.courses import Course
from tailrace_agent.top.frame import Shown
from tailrace_agent.top.local import LocalRuns
from tailrace_agent.top.rows import Known, RunRow
from tailrace_agent.top.stored import Histories, StoredRuns, Wanted
from tailrace_agent.top.tail import Tail
from tailrace_agent.top.windows import Window, Windows

__all__ = ["LocalSource", "Source", "StoreSource"]


class Source(Protocol):
    """What is known of runs."""

    def start(self) -> None:
        """Has what takes its time done in a thread from now on."""

    def step(self, now: float) -> None:
        """Does a piece of it here, where no thread was started; `now` in monotonic seconds."""

    def look(self, drawn: Collection[str]) -> Known:
        """What is known now, with the courses of some runs."""

    def show(self, shown: Collection[Shown]) -> None:
        """These have charts: what is drawn of them more coarsely than it could be is read again."""

    def changed(self, drawn: Collection[str]) -> bool:
        """Whether there is something new of these runs. Some microseconds."""

    @property
    def complete(self) -> bool:
        """Whether all is known that the last look has asked for, as far as it is there."""

    @property
    def closest(self) -> bool:
        """Whether what has charts is known as closely as it goes."""


class _Quiet:
    """A log that nobody reads: what is wrong is on the screen."""

    def info(self, event: str, **fields: object) -> None:
        """As `Log`."""

    def warning(self, event: str, **fields: object) -> None:
        """As `Log`."""

    def error(self, event: str, **fields: object) -> None:
        """As `Log`."""


class LocalSource:
    """The runs of this machine; of those that no agent holds any more the metrics are read from their store.

    Args:
        local: The sessions.
        histories: Reads from stores.
        chosen: Whether a run is to be in the list.

    Not thread-safe, but for the thread that `start` begins.
    """

    def __init__(self, local: LocalRuns, histories: Histories, chosen: Callable[[RunRow], bool]) -> None:
        self._local, self._histories, self._chosen = local, histories, chosen
        self._windows = Windows(histories.reader)
        self._rows: dict[str, RunRow] = {}
        self._courses: Mapping[str, Mapping[str, Course]] = {}
        self._tails: dict[Path, Tail] = {}
        self._version = -1

    def start(self) -> None:
        """As `Source`."""
        Worker("tailrace-top", _in_turn(self._histories.step, self._windows), _Quiet()).start()

    def step(self, now: float) -> None:
        """As `Source`."""
        _in_turn(self._histories.step, self._windows)(now)

    def look(self, drawn: Collection[str]) -> Known:
        """As `Source`."""
        now = time.monotonic()
        rows = [row for row in self._local.rows(now) if self._chosen(row)]
        courses: dict[str, Mapping[str, Course]] = dict(self._local.courses(drawn, now))
        left_out = {key: self._local.left_out(key) for key in drawn}
        self._version = self._histories.version + self._windows.version
        self._rows = {row.key: row for row in rows}
        wanted = _wanted(rows, drawn, courses)
        self._histories.want(wanted)
        for each in wanted:
            courses[each.key], left_out[each.key] = self._histories.courses(each.key)
        self._courses = courses
        shown = [row for row in rows if row.key in drawn and row.console is not None]
        return Known(
            runs=rows,
            courses={key: self._windows.closer(key, found) for key, found in courses.items()},
            left_out=left_out,
            tails={row.key: self._tail(row.console) for row in shown if row.console is not None},
            place="this machine",
            fault=(self._histories.fault if wanted else None) or self._windows.fault,
        )

    def show(self, shown: Collection[Shown]) -> None:
        """As `Source`: what MLflow has of a run is drawn closer, and the rest stays as its agent keeps it."""
        stores = {key: row.store for key, row in self._rows.items() if row.store}
        self._windows.want(_windows(shown, self._courses, self._rows, stores))

    def changed(self, drawn: Collection[str]) -> bool:
        """As `Source`."""
        return self._version != self._histories.version + self._windows.version or self._local.changed(drawn)

    @property
    def complete(self) -> bool:
        """As `Source`."""
        return self._histories.idle

    @property
    def closest(self) -> bool:
        """As `Source`."""
        return self._windows.idle

    def _tail(self, path: Path) -> list[str]:
        if path not in self._tails:
            self._tails[path] = Tail(path)
        return self._tails[path].lines()


def _wanted(
    rows: Collection[RunRow], drawn: Collection[str], courses: Mapping[str, Mapping[str, Course]]
) -> list[Wanted]:
    """The runs of which no agent has told anything, and MLflow may."""
    by_key = {row.key: row for row in rows}
    found = []
    for key in drawn:
        row = by_key.get(key)
        if row is not None and not row.live and key not in courses and row.store and row.run_id:
            found.append(Wanted(key, row.store, row.run_id, live=False))
    return found


def _in_turn(first: Callable[[float], float], windows: Windows) -> Callable[[float], float]:
    """A closer look is taken when there is nothing else to read."""

    def step(now: float) -> float:
        due = first(now)
        return due if due <= now else min(due, windows.step(now))

    return step


def _windows(
    shown: Collection[Shown],
    courses: Mapping[str, Mapping[str, Course]],
    rows: Mapping[str, RunRow],
    stores: Mapping[str, str],
) -> list[Window]:
    """What is worth a closer look: what is zoomed in, and what was sampled; the chosen run's last."""
    found = []
    for each in shown:
        row, course = rows.get(each.run), courses.get(each.run, {}).get(each.metric)
        if row is None or course is None or not row.run_id or each.run not in stores:
            continue
        if course.sampled or not each.all:
            window = each.first, each.last, each.all
            found.append(Window(each.run, each.metric, stores[each.run], row.run_id, *window, row.live))
    return found


class StoreSource:
    """The runs of a store.

    Args:
        stored: Its runs.
        histories: Their metrics.
        place: The store's name, as it may be shown.

    Not thread-safe, but for the thread that `start` begins.
    """

    def __init__(self, stored: StoredRuns, histories: Histories, place: str) -> None:
        self._stored, self._histories, self._place = stored, histories, place
        self._windows = Windows(histories.reader)
        self._courses: Mapping[str, Mapping[str, Course]] = {}
        self._version = -1

    def start(self) -> None:
        """As `Source`."""
        Worker("tailrace-top", _in_turn(self._stored.step, self._windows), _Quiet()).start()

    def step(self, now: float) -> None:
        """As `Source`."""
        _in_turn(self._stored.step, self._windows)(now)

    def look(self, drawn: Collection[str]) -> Known:
        """As `Source`."""
        self._version = self._windows.version
        courses = self._stored.courses(drawn)
        self._courses = {key: found for key, (found, _) in courses.items()}
        return Known(
            runs=self._stored.rows,
            courses={key: self._windows.closer(key, found) for key, found in self._courses.items()},
            left_out={key: left_out for key, (_, left_out) in courses.items()},
            place=self._place if self._stored.searched else f"{self._place}: asking",
            more=self._stored.more,
            empty=self._stored.empty,
            fault=self._stored.fault or self._histories.fault or self._windows.fault,
        )

    def show(self, shown: Collection[Shown]) -> None:
        """As `Source`."""
        rows = {row.key: row for row in self._stored.rows}
        self._windows.want(_windows(shown, self._courses, rows, dict.fromkeys(rows, self._stored.uri)))

    def changed(self, drawn: Collection[str]) -> bool:
        """As `Source`."""
        del drawn  # whatever was read was asked for
        return self._stored.changed or self._version != self._windows.version

    @property
    def complete(self) -> bool:
        """As `Source`."""
        return self._stored.searched and self._histories.idle

    @property
    def closest(self) -> bool:
        """As `Source`."""
        return self._windows.idle
