"""Alerts: raised once until it is over, stored with the run, told, and posted; never in anybody's way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from helpers.sdk_tools import tracking
from tailrace import CallError
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.records import Alert, End, RunSpec, Start
from tailrace_agent.observers.alerts import MOST, Alerts, as_tags, describe

SECOND = 1_000_000_000


@pytest.fixture
def book() -> RunBook:
    """A session with the runs 1 and 2, and somebody else's run 3."""
    book = RunBook({}, lambda _run, _state: None)
    for run in (1, 2, 3):
        book.start(Start(RunSpec(run=run, start_time=5, cwd="/", owned=run != 3)), "ring")
    return book


class Watch:
    """Rules, and rows whose times the test chooses."""

    def __init__(self, book: RunBook, *rules: str) -> None:
        self.alerts = Alerts(rules, book)
        self.told: list[str] = []

    def row(self, at: float, *, run: int = 1, system: bool = False, **values: float) -> list[str]:
        self.alerts.saw(run, int(at), int(at * SECOND), values, system=system)
        return self.new()

    def look(self, now: float) -> list[str]:
        self.alerts.look(now, int(now * 1000))
        return self.new()

    def new(self) -> list[str]:
        due = self.alerts.due()
        self.alerts.done(due)
        return [alert.text for alert in due]


# ── Rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_condition_is_told_once_until_it_has_been_over_for_a_minute(book: RunBook) -> None:
    watch = Watch(book, "loss > 1")
    assert watch.row(0, loss=0.5) == []
    assert watch.row(1, loss=2.0) == ["loss is 2 at step 1"]
    assert watch.row(2, loss=3.0) == []
    assert watch.row(3, loss=0.5) == []
    assert watch.row(4, loss=2.0) == [], "it flickers"
    assert watch.row(5, loss=0.5) == []
    assert watch.row(64, loss=0.5) == []
    assert watch.row(66, loss=0.5) == []
    assert watch.row(67, loss=2.0) == ["loss is 2 at step 67"]


def test_each_run_and_each_metric_is_judged_by_itself(book: RunBook) -> None:
    watch = Watch(book, "loss is NaN")
    assert watch.row(1, loss=math.nan) == ["loss is nan at step 1"]
    assert watch.row(1, loss=math.nan, run=2) == ["loss is nan at step 1"]
    assert watch.row(2, **{"val/loss": math.nan, "loss": math.nan}) == ["val/loss is nan at step 2"]


def test_a_condition_with_a_time_has_to_hold_that_long(book: RunBook) -> None:
    watch = Watch(book, "temperature > 85 for 1 min")
    assert watch.row(0, temperature=90, system=True) == []
    assert watch.row(30, temperature=80, system=True) == []
    assert watch.row(31, temperature=90, system=True) == []
    assert watch.row(90, temperature=90, system=True) == []
    assert watch.row(91, temperature=90, system=True) == ["temperature is 90 for 1 min at step 91"]


def batch(rank: int, *, longest: float = 2.0, node: str = "") -> dict[str, float]:
    """The statistics of a step in which this rank was the slowest."""
    values = {"mean": 1.2, "min": 1.0, "max": longest, "max_rank": float(rank)}
    return {f"train/batch_time_seconds.{what}{node}": value for what, value in values.items()}


def test_a_rank_that_is_slow_all_the_time_is_named(book: RunBook) -> None:
    watch = Watch(book, "rank slower than 1.5 times the fastest for 1 min")
    assert [watch.row(at, **batch(3)) for at in (0, 30, 59)] == [[], [], []]
    assert watch.row(60, **batch(3)) == ["rank 3 takes 2 s a batch, 2 times the fastest for 1 min at step 60"]
    assert watch.row(90, **batch(3)) == []


def test_ranks_that_are_slow_by_turns_are_no_stragglers(book: RunBook) -> None:
    watch = Watch(book, "rank slower than 1.5 times the fastest for 1 min")
    assert [watch.row(at, **batch(at % 2)) for at in range(0, 300, 15)] == [[]] * 20
    assert [watch.row(at, **batch(3, longest=1.4)) for at in (400, 500)] == [[], []]


def test_each_node_has_its_own_slow_rank(book: RunBook) -> None:
    watch = Watch(book, "rank slower than 1.5x")
    said = watch.row(1, **batch(3), **batch(9, node="/node1"))
    assert [text.partition(" takes")[0] for text in said] == ["rank 3", "rank 9 on node1"]


def test_no_progress_ends_with_the_next_metrics_and_with_the_run(book: RunBook) -> None:
    watch = Watch(book, "no progress for 10 s")
    assert watch.look(0) == []
    watch.row(9, loss=1.0)
    assert watch.look(9) == []
    assert watch.look(11) == ["no metric came for 10 s"], "run 2; run 3 is somebody else's"
    assert watch.look(19) == []
    watch.row(19, cpu=1.0, system=True)
    assert watch.look(20.5) == ["no metric came for 10 s"], "a sample of the machine is no progress"
    assert watch.look(40) == []
    watch.row(41, loss=1.0)
    assert watch.look(41) == []
    assert watch.look(50) == []
    assert watch.look(52) == ["no metric came for 10 s"]
    watch.row(53, loss=1.0)
    assert watch.look(53) == []
    book.end(End(1, "FINISHED", 9))
    assert watch.look(90) == []


def test_rows_that_were_waiting_for_an_agent_are_progress(book: RunBook) -> None:
    watch = Watch(book, "no progress for 10 s")
    watch.row(3, loss=1.0, run=1)
    watch.row(3, loss=1.0, run=2)
    assert watch.look(50_000) == [], "the clock of this machine has run for hours already"
    assert watch.look(50_011) == ["no metric came for 10 s"] * 2


def test_an_alert_is_due_until_it_is_written(book: RunBook) -> None:
    alerts = Alerts(["loss is NaN"], book)
    alerts.saw(1, 7, 0, {"loss": math.nan}, system=False)
    assert alerts.due() == alerts.due()
    alerts.saw(1, 7, 0, {"loss": math.nan}, system=False)  # the same row again: its commit has failed
    assert len(alerts.due()) == 1
    alerts.done(alerts.due())
    assert alerts.due() == []


def test_a_run_keeps_its_first_hundred_alerts(book: RunBook) -> None:
    alerts = [Alert(1, f"alert {n}", "", "info", 0) for n in range(MOST + 5)]
    tagged = as_tags([*alerts, Alert(99, "of nobody", "", "info", 0)], book)
    assert len(tagged) == MOST
    keys = [key for _, tags in tagged for key in tags.tags]
    assert (keys[0], keys[-1]) == ("tailrace.alert.001", "tailrace.alert.100")
    assert next(iter(tagged[-1][1].tags.values())).endswith("(further alerts of this run are left out)")
    book.update(1, alerts=MOST)
    assert as_tags(alerts, book) == []
    assert describe(Alert(1, "a", "b", "error", 0)) == "1970-01-01T00:00:00Z error: a: b"


# ── As a user sees it ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_level_that_is_none_is_a_mistake_of_the_caller(sqlite_uri: str) -> None:
    wrong: Any = "fatal"
    with tracking(sqlite_uri, strict=True) as sdk, sdk.start_run() as run, pytest.raises(CallError, match="'fatal'"):
        run.alert("x", level=wrong)


def test_without_tracking_an_alert_is_still_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for settings in ({"enabled": False}, {"backend": "none"}):
        with tracking("http://127.0.0.1:9", **settings) as sdk, sdk.start_run() as run:
            run.alert("it diverges", str(settings))
    assert [record.getMessage() for record in caplog.records if "alert" in record.getMessage()] == [
        "tailrace: alert: it diverges ({'enabled': False})"
    ]


def test_what_an_alert_says_here_cannot_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with tracking("http://127.0.0.1:9", enabled=False) as sdk, sdk.start_run() as run:
        run.alert("über\x1b[31m", "a\nb")
    assert "tailrace: alert: über\\x1b[31m (a\\nb)" in caplog.messages
