"""Alerts: what the program raises, and what the rules find in what passes by. Pure; the caller writes and posts.

* A rule raises the alarm once for each metric of each run, and again only after its condition has not held for
  `_CLEAR` seconds. Times are those of the rows, so it does not matter when they are read.
* A rule about ranks is one about each of them: its condition has to hold for one and the same.
* "No progress" counts from a run's last metrics (its start, or this agent's, where it has none); a sample of the
  system monitor is none. It ends with the next metrics, or with the run.
* An alert is due until `done` reports it as written: what fails in between raises it once more, and never twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Final

import msgspec

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.records import Alert, Tags
from tailrace_agent.runtime.job import BATCH_TIME
from tailrace_agent.settings.alert_rules import Rule, parse_rule

__all__ = ["MOST", "Alerts", "as_tags"]

MOST: Final = 100
"""Alerts of one run; further ones are left out."""
_CLEAR: Final = 60.0
_LOOK_EVERY: Final = 1.0  # seconds; the drain comes ten times as often
_MOST_KEYS: Final = 10_000  # also of conditions that hold at once: beyond that no new one raises the alarm
_LONGEST: Final = 2000  # characters: a tag of MLflow's has room for 8,000
_LONGEST_BATCH: Final = f"{BATCH_TIME}.max"
_NS: Final = 1_000_000_000


class _Held(msgspec.Struct):
    """A condition that holds, or held a moment ago: since when, whether it was reported, since when it is over."""

    since_ns: int
    reported: bool = False
    over_ns: int | None = None


class Alerts:
    """Watches one session's runs.

    Args:
        rules: As the setting `alerts` has them.
        book: The runs.

    Not thread-safe: the drain's thread calls everything.
    """

    def __init__(self, rules: Iterable[str], book: RunBook) -> None:
        parsed = [parse_rule(rule) for rule in rules]
        self._rules = [rule for rule in parsed if rule.matches is not None]
        self._silences = [rule for rule in parsed if rule.matches is None and not rule.ranks]
        self._of_ranks = [rule for rule in parsed if rule.ranks]
        self._slowest: dict[tuple[int, str], str] = {}
        self._book = book
        self._due: list[Alert] = []
        self._held: dict[tuple[int, str, str], _Held] = {}
        self._rules_of: dict[str, list[Rule]] = {}
        self._progress: dict[int, float] = {}
        self._reported: set[tuple[int, str]] = set()
        self._moved: set[int] = set()
        self._look_at = 0.0

    @property
    def watching(self) -> bool:
        """Whether there is any rule."""
        return bool(self._rules or self._silences or self._of_ranks)

    def saw(self, run: int, step: int, time_ns: int, values: Mapping[str, float], *, system: bool) -> None:
        """A row passes by."""
        if not system:
            self._moved.add(run)
        for key, value in values.items():
            for rule in self._of(key):
                if self._judge(rule, run, key, float(value), time_ns):
                    text = f"{key} is {value:g}{_for(rule.seconds)} at step {step}"
                    self._raise(run, rule.text, text, time_ns // 1_000_000)

        if self._of_ranks and not system:
            self._look_for_slow_ranks(run, step, time_ns, values)

    def look(self, now: float, time_ms: int) -> None:
        """Looks for runs without progress, after the rows that came; at most once a second."""
        for run in self._moved:
            # The drain's clock, not the rows' time: what counts is the silence that this agent hears.
            self._progress[run] = now
        if self._moved:
            self._reported = {entry for entry in self._reported if entry[0] not in self._moved}
        self._moved.clear()
        if not self._silences or now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY
        for state in self._book.all():
            if state.end is not None or not state.spec.owned:  # not ours to end: others may log to it, elsewhere
                self._progress.pop(state.run, None)
                continue
            silent = now - self._progress.setdefault(state.run, now)
            for rule in self._silences:
                if silent > rule.seconds and (state.run, rule.text) not in self._reported:
                    self._reported.add((state.run, rule.text))
                    self._raise(state.run, rule.text, f"no metric came for {_lasting(rule.seconds)}", time_ms)

    def due(self) -> list[Alert]:
        """What the rules have found and nobody has written yet."""
        return list(self._due)

    def done(self, alerts: Sequence[Alert]) -> None:
        """These are written."""
        self._due = [alert for alert in self._due if alert not in alerts]  # some may have come since `due`

    def _look_for_slow_ranks(self, run: int, step: int, time_ns: int, values: Mapping[str, float]) -> None:
        for key, longest in values.items():
            node = key[len(_LONGEST_BATCH) :]
            if not key.startswith(_LONGEST_BATCH) or node[:1] not in ("", "/"):
                continue
            least = values.get(f"{BATCH_TIME}.min{node}", 0.0)
            times = longest / least if least > 0 else 1.0
            rank = f"{values.get(f'{BATCH_TIME}.max_rank{node}', 0.0):g}"
            before = self._slowest.get((run, node), rank)
            self._slowest[run, node] = rank
            for rule in self._of_ranks:
                # It is one rank that has to be slow all the time: that each is at some step is no straggler.
                if before != rank:
                    self._judge(rule, run, f"{before}{node}", 1.0, time_ns)
                if self._judge(rule, run, f"{rank}{node}", times, time_ns):
                    where, lasting = f" on {node[1:]}" if node else "", _for(rule.seconds)
                    what = f"rank {rank}{where} takes {longest:g} s a batch, {times:.2g} times the fastest"
                    self._raise(run, rule.text, f"{what}{lasting} at step {step}", time_ns // 1_000_000)

    def _of(self, key: str) -> list[Rule]:
        rules = self._rules_of.get(key)
        if rules is None:
            rules = [rule for rule in self._rules if rule.matches is not None and rule.matches(key)]
            # Bounded, since a run may log names without end: beyond that each value is matched anew.
            if len(self._rules_of) < _MOST_KEYS:
                self._rules_of[key] = rules
        return rules

    def _judge(self, rule: Rule, run: int, key: str, value: float, time_ns: int) -> bool:
        """Whether this value raises the alarm."""
        name = run, rule.text, key
        held = self._held.get(name)
        if not rule.holds(value):
            if held is not None:
                held.over_ns = held.over_ns or time_ns  # the first value that is fine, not the last
                # One that was reported stays for a while: a value that wavers around a limit is one alarm, not many.
                if not held.reported or time_ns - held.over_ns >= _CLEAR * _NS:
                    del self._held[name]
            return False
        if held is None:
            if len(self._held) >= _MOST_KEYS:
                return False
            held = self._held[name] = _Held(time_ns)
        held.over_ns = None  # it holds again within `_CLEAR`: still the same alarm
        if held.reported or time_ns - held.since_ns < rule.seconds * _NS:
            return False
        held.reported = True
        return True

    def _raise(self, run: int, title: str, text: str, time_ms: int) -> None:
        self._due.append(Alert(run, title, text, "warning", time_ms))


def as_tags(alerts: Sequence[Alert], book: RunBook, new: Container[int] = ()) -> list[tuple[Alert, Tags]]:
    """The tag `tailrace.alert.<n>` for each alert of a known or `new` run, as long as the run has room for more."""
    numbers: dict[int, itertools.count[int]] = {}
    tagged = []
    for alert in alerts:
        state = book.get(alert.run)
        if state is None and alert.run not in new:  # the run's record has not come, and a tag needs a run
            continue
        before = state.alerts if state is not None else 0
        number = next(numbers.setdefault(alert.run, itertools.count(before + 1)))
        # Of a job's other nodes, whose agents count for themselves, each has names of its own.
        job = state.spec.job if state is not None and not state.spec.owned else None
        where = f"{job.node}." if job is not None and job.several_nodes else ""
        if number <= MOST:
            last = " (further alerts of this run are left out)" if number == MOST else ""
            tagged.append((alert, Tags(alert.run, {f"tailrace.alert.{where}{number:03}": f"{describe(alert)}{last}"})))
    return tagged


def describe(alert: Alert) -> str:
    """`2026-11-21T03:04:05Z warning: loss is NaN: train/loss is nan at step 7`."""
    at = datetime.fromtimestamp(alert.time_ms / 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = f": {alert.text}" if alert.text else ""
    return f"{at} {alert.level}: {alert.title}{text}"[:_LONGEST]


def _for(seconds: float) -> str:
    return f" for {_lasting(seconds)}" if seconds else ""


def _lasting(seconds: float) -> str:
    for unit, factor in (("h", 3600), ("min", 60)):
        if seconds >= factor and seconds % factor == 0:
            return f"{seconds / factor:g} {unit}"
    return f"{seconds:g} s"
