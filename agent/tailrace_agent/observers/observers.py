"""Who looks on at what passes through the pipeline: alert rules, those who are told, the endpoint for Prometheus.

None of them holds up or changes what is delivered: judging a row is arithmetic, and all else has a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.curves import At, Curve
from tailrace_agent.ipc.records import Alert, End, encode, run_hex
from tailrace_agent.ipc.status import MetricEnds
from tailrace_agent.log import Log
from tailrace_agent.observers.alerts import Alerts, as_tags, describe
from tailrace_agent.observers.bests import closing_row, ends_of, with_more
from tailrace_agent.observers.curves import Curves
from tailrace_agent.observers.last_values import LastValues
from tailrace_agent.observers.posts import Posts
from tailrace_agent.settings.settings import Settings
from tailrace_agent.spool.extremes import of_program
from tailrace_agent.spool.intake import Changes
from tailrace_agent.spool.store import Spool

if TYPE_CHECKING:
    from tailrace_agent.observers.prometheus import Endpoint

__all__ = ["Observers"]

_NO_METRICS: Final = MetricEnds()
_LAST_POSTS: Final = 3.0
"""Seconds that an agent which ends gives what is still to be posted."""


class Observers:
    """Those of one session.

    Args:
        settings: In force; the addresses of alerts without their secrets.
        book: The runs, and those addresses with their secrets.
        spool: What waits.
        session: The session's id.
        curves: The courses of all metrics.
        host: This machine's name.
        log: Where operators read.

    Attributes:
        curves: The courses of all metrics, for the drain's thread.

    Thread safety: `take`, `saw` and `done` from the drain's thread, the steps in `helpers` from one thread each.
    """

    def __init__(
        self, settings: Settings, book: RunBook, spool: Spool, curves: Curves, *, session: str, host: str, log: Log
    ) -> None:
        self._settings, self._book, self._host, self._log = settings, book, host, log
        self._spool, self._session = spool, session
        self.curves = curves
        self._steps: dict[int, int] = {}
        self._unwritten: dict[int, dict[str, At]] = {}
        self._ends: dict[int, MetricEnds] = {}
        self._latest = LastValues() if settings.prometheus_port is not None else None
        self._endpoint: Endpoint | None = None
        self._served: str | None = None
        self.alerts = Alerts(settings.alerts, book)
        self._taken: list[Alert] = []
        self._raised: list[Alert] = []
        self._posts = Posts(settings, book, host, log, self._notify_users)

    def saw(self, run: int, step: int, time_ns: int, values: Mapping[str, float], *, system: bool) -> None:
        """A row passes by."""
        self.curves.saw(run, step, time_ns, values)
        if not system and step > self._steps.get(run, -1):
            self._steps[run] = step
        if self.alerts.watching:
            self.alerts.saw(run, step, time_ns, values, system=system)
        if self._latest is not None:
            self._latest.saw(run, step, time_ns, values, system=system)

    def resume(self, *, same_boot: bool) -> None:
        """Goes on where an earlier agent has stopped.

        Args:
            same_boot: Whether that was in this boot of the machine: a power cut may have taken values that curves hold.
        """
        states = {state.run: state for state in self._book.all_unfinished()}
        self.curves.resume(states if same_boot else ())
        for run, state in states.items():
            curves = self.curves.of(run)
            own = [curve.last[0] for key, curve in curves.items() if curve.last is not None and of_program(key)]
            if own:
                self._steps[run] = max(own)
            if self._latest is not None:
                for key, curve in curves.items():
                    if curve.last is not None:
                        step, time_ns, value = curve.last
                        self._latest.saw(run, step, time_ns, {key: value}, system=not of_program(key))
            if state.end is not None:
                self._note_ends(run, state.bests)

    def metric_ends(self, run: int) -> MetricEnds:
        """How the metrics of a run have ended, once it has. From any thread."""
        return self._ends.get(run, _NO_METRICS)

    def last_step(self, run: int) -> int | None:
        """The largest step that a run's program has logged at, as far as this agent knows. From any thread."""
        return self._steps.get(run)

    def forget(self, run: int, ends: MetricEnds) -> None:
        """A run is over, and how its metrics ended is published: nobody asks here any more. From any thread."""
        if self.metric_ends(run) is ends:  # not what has come since
            self._ends.pop(run, None)
            self._steps.pop(run, None)

    @property
    def url(self) -> str | None:
        """Where the metrics are served to Prometheus, if they are."""
        return self._endpoint.url if self._endpoint is not None else None

    def look_back(self, changes: Changes, ends: Iterable[End]) -> list[bytes]:
        """Notes the best values that a drain has brought; rows for the runs that end with it, to be written with it.

        Args:
            changes: What it brought; the book knows of its starts, goals and ends already.
            ends: Of runs, also those whose process is gone.
        """
        ending = {end.run: end for end in ends}
        if ending:  # what is settled makes room: there may be more runs than there is room for
            self._keep_open_alone()
        taken: dict[int, Mapping[str, Curve]] = {**self.curves.take_in()}
        # What is better may be said after the values, and another process's values may be read before the start.
        for run in {*(goals.run for goals in changes.goals), *(start.spec.run for start, _ in changes.starts), *ending}:
            taken[run] = self.curves.of(run)
        # The commit failed with which they were to be written; the book has them by now.
        before = self._unwritten
        for run in taken.keys() | before.keys():
            state = self._book.get(run)
            if state is None:
                continue
            more = with_more(state, taken.get(run, {}), by_name=self._settings.best_metrics)
            if bests := more or before.get(run):
                changes.bests[run] = bests
                if state.end is not None:  # a value that a device had not computed by then, or another process's
                    # Also where the clock was set back: a metric's last point is the one of the largest time.
                    later = max(time.time_ns() // 1_000_000, state.end.time_ms + 1, state.bests_ms + 1)
                    ending.setdefault(run, msgspec.structs.replace(state.end, time_ms=later))
        self._unwritten = dict(changes.bests)
        rows: list[bytes] = []
        for run, end in ending.items():
            if (state := self._book.get(run)) is not None:
                bests = changes.bests.get(run, state.bests)
                row = closing_row(state, end, bests, by_name=self._settings.best_metrics)
                if row is not None:
                    changes.bests_ms[run] = end.time_ms
                    rows.append(row)
                self._note_ends(run, bests)
        return rows

    def _keep_open_alone(self) -> None:
        self.curves.keep_only(state.run for state in self._book.all_unfinished())

    def _note_ends(self, run: int, bests: Mapping[str, At]) -> None:
        self._ends[run] = ends_of(self.curves.of(run), bests, self.curves.left_out.get(run, ()))

    def take(self, changes: Changes, now: float) -> list[bytes]:
        """Alerts that are due: their rows, to be written with the changes; `done` follows when they are."""
        # A run that began after the endpoint has not been informed.
        for text in filter(None, (self._served, self._posts.fault if changes.starts else None)):
            changes.notices += [(start.spec.run, text) for start, _ in changes.starts]
        self.alerts.look(now, time.time_ns() // 1_000_000)
        found = self.alerts.due()
        if not found and not changes.alerts:
            return []
        self._taken = found + changes.alerts
        tagged = as_tags(self._taken, self._book, {start.spec.run for start, _ in changes.starts})
        self._raised = [alert for alert, _ in tagged]
        for alert in self._raised:
            if alert in found:  # the program has shown its user its own
                changes.notices.append((alert.run, f"alert: {alert.title} ({alert.text})"))
        return [encode(tags) for _, tags in tagged]

    def done(self) -> None:
        """What a drain has brought is written: now it may be announced."""
        self._unwritten = {}
        if not self._taken:
            return
        taken, raised = self._taken, self._raised
        self._taken, self._raised = [], []
        self.alerts.done(taken)
        for alert in raised:
            state = self._book.get(alert.run)
            # The number of the next tag, stored with the run: an agent that comes later counts on.
            self._book.update(alert.run, alerts=state.alerts + 1 if state is not None else 1)
            self.announce(alert)

    def announce(self, alert: Alert) -> None:
        """Logs an alert for operators, and posts it."""
        record = self._log.info if alert.level == "info" else self._log.warning
        record("alert", run=run_hex(alert.run), text=describe(alert))
        self._posts.put(alert, self.curves.of(alert.run))

    @property
    def pending(self) -> bool:
        """Whether an alert is still to be posted."""
        return self._posts.pending

    @property
    def helpers(self) -> dict[str, Callable[[float], float]]:
        """What has to be done in threads of its own, by name."""
        steps = self._posts.steps
        if self._latest is not None:
            steps["serve"] = self._serve
        return steps

    def after_fork(self) -> None:
        """In a forked child of a thread-hosted agent."""
        if self._endpoint is not None:
            self._endpoint.after_fork()

    def close(self) -> None:
        """The agent ends."""
        if self._endpoint is not None:
            self._endpoint.close()
        self._keep_open_alone()
        self.curves.close()
        self._posts.finish(_LAST_POSTS)

    def _serve(self, now: float) -> float:
        if self._endpoint is None:
            from tailrace_agent.observers.prometheus import (  # 0.1 s, and only where it is set
                Endpoint,
                RunCollector,
            )

            assert self._latest is not None
            assert self._settings.prometheus_port is not None
            collector = RunCollector(self._latest, self._book, self._spool, self._session)
            host, port = self._settings.prometheus_host, self._settings.prometheus_port
            self._endpoint = Endpoint(collector, host, port, self._report_address, self._log)
        return self._endpoint.step(now)

    def _report_address(self, text: str) -> None:
        """To the users of the runs that there are, and of those that come."""
        self._served = text
        self._notify_users(text)

    def _notify_users(self, text: str) -> None:
        for state in self._book.all():
            if state.end is None:
                self._book.notice(state.run, text)
