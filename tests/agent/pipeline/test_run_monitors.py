"""Which runs are sampled: from their record on, until another one, the run's end, or that of its process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from helpers.kept_log import KeptLog
from helpers.run_books import Saved, started
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.ipc.records import RAW, End, Monitor, Samples
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.run_monitors import RunMonitors
from tailrace_agent.sampler import sources
from tailrace_agent.sampler.config import MonitorConfig
from tailrace_agent.sampler.health import Health
from tailrace_agent.spool.intake import Changes
from tailrace_agent.spool.store import Spool


class Meter:
    """A source that answers at once."""

    name, every = "meter", 0.0

    def sample(self, now: float) -> dict[str, float]:
        del now
        return {"count": 1.0}

    def tags(self) -> dict[str, str]:
        return {}

    def totals(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


class RunMonitorsRig:
    """The monitors of two runs, on a meter of the test's."""

    def __init__(self, session: Session, spool: Spool) -> None:
        self.log, self.saved = KeptLog(), Saved()
        self.session, self.spool = session, spool
        self.book = self.saved.book()
        for run in (1, 2):
            started(self.book, run)
        self.dead: set[str] = set()
        self.healths: list[Callable[[], Health]] = []
        self.monitors = self.agent(self.book)

    def agent(self, book: RunBook) -> RunMonitors:
        return RunMonitors(self.session, self.spool, book, lambda ring: ring not in self.dead, self.log)

    def follow(
        self, *records: Monitor, ends: tuple[int, ...] = (), gone: tuple[int, ...] = ()
    ) -> list[tuple[int, int]]:
        """One drain; run and step of the samples that it has brought."""
        self.changes = Changes()
        self.changes.monitors += records
        self.changes.ends += [End(run, "FINISHED", 9) for run in ends]
        taken = self.monitors.follow(self.changes, gone)
        rows = [] if taken is None else [RAW.decode(row) for row in taken.rows]
        return [(row[0], row[1]) for row in rows if isinstance(row[0], int)]

    def sample(self) -> None:
        assert self.monitors.step is not None
        self.monitors.step(time.monotonic())


@pytest.fixture
def rig(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunMonitorsRig]:
    spool = Spool(tmp_path / "spool.db")
    rig = RunMonitorsRig(session, spool)

    def all_sources(_config: MonitorConfig, _log: object, health: Callable[[], Health], _shared: Path) -> list[Meter]:
        rig.healths.append(health)
        return [Meter()]

    monkeypatch.setattr(sources, "all_sources", all_sources)
    yield rig
    spool.close()


def wants(run: int, *, on: bool = True, token: int = 1, **config: Any) -> Monitor:
    plain = msgspec.to_builtins(MonitorConfig(interval=3600.0))
    return Monitor(run, {**plain, **config}, on, False, token)


def test_before_the_first_is_wanted_nothing_is_sampled(rig: RunMonitorsRig) -> None:
    assert rig.monitors.follow(Changes(), ()) is None
    assert rig.monitors.step is None
    assert rig.healths == []


def test_a_record_begins_a_monitor_and_another_one_ends_it(rig: RunMonitorsRig) -> None:
    rig.follow(wants(1))
    rig.sample()
    assert rig.follow() == [(1, 0)]
    assert rig.follow(wants(1, on=False)) == [(1, 1)]  # the last one is taken at the end
    rig.sample()
    assert rig.follow() == []


@pytest.mark.parametrize("how", ["ends", "gone"])
def test_the_end_of_a_run_or_of_its_process_ends_its_monitors_and_no_others(rig: RunMonitorsRig, how: str) -> None:
    rig.follow(wants(1), wants(2, interval=1800.0))
    rig.sample()
    rig.follow()
    ended = {how: (1,)}
    assert rig.follow(**ended) == [(1, 1)]  # type: ignore[arg-type]
    assert rig.follow(ends=(1, 2)) == [(2, 1)]


def test_a_monitor_that_cannot_be_started_is_reported_to_its_user_and_costs_no_other(rig: RunMonitorsRig) -> None:
    rig.follow(wants(1, interval=0.0), wants(1, interval="soon"), wants(2))
    assert [
        (run, str(text).startswith("the system monitor cannot be started: ")) for run, text in rig.changes.notices
    ] == [
        (1, True),
        (1, True),
    ]
    rig.sample()
    assert rig.follow() == [(2, 0)]


def test_an_agent_goes_on_with_the_count_of_the_one_before_it(rig: RunMonitorsRig) -> None:
    rig.book.monitor(wants(1))
    rig.book.sampled(1, {"system": Samples(7, {})})
    rig.monitors.resume()
    rig.sample()
    assert rig.follow() == [(1, 7)]


def test_a_run_that_has_ended_or_whose_process_is_gone_is_not_sampled_again(rig: RunMonitorsRig) -> None:
    started(rig.book, 3)
    for run in (1, 2, 3):
        rig.book.monitor(wants(run))
    rig.book.end(End(1, "FINISHED", 9))
    for state in rig.book.all():
        state.ring = f"ring-{state.run}"
    rig.dead.add("ring-2")
    rig.monitors.resume()
    rig.sample()
    assert rig.follow() == [(3, 0)]


def test_what_cannot_go_on_is_logged_and_costs_no_other(rig: RunMonitorsRig) -> None:
    rig.book.monitor(wants(1, interval=0.0))
    rig.book.monitor(wants(2))
    rig.monitors.resume()
    assert rig.log.events.count("system monitor cannot go on") == 1
    rig.sample()
    assert rig.follow() == [(2, 0)]


def test_the_agents_health_is_the_age_of_the_oldest_that_waits_of_runs_that_are_not_over(rig: RunMonitorsRig) -> None:
    rig.follow(wants(1))
    (health,) = rig.healths
    assert health() == Health(0.0, 0, 0)
    old, older = (time.time_ns() - seconds * 10**9 for seconds in (100, 1000))
    rig.spool.ingest([(1, "metric", 3, old, b"xx"), (2, "metric", 2, older, b"y")], [])
    lag, pending, size = health()
    assert 1000 <= lag < 1500
    assert (pending, size) == (5, 3)
    rig.book.end(End(2, "FINISHED", 5))
    for event in (Event.REPORTED, Event.SETTLED):
        assert rig.book.advance(2, event)
    assert 100 <= health().lag < 600
