"""Alerts: raised once until it is over, stored with the run, told, and posted; never in anybody's way."""

from __future__ import annotations

import http.server
import json
import math
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.lies import LIES
from faults.proxy import Proxy
from helpers.kept_log import KeptLog
from helpers.sdk_tools import Store, eventually, tracking
from tailrace import CallError, Settings, SettingsError
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.records import Alert, End, RunSpec, Start, encode
from tailrace_agent.ipc.session import Session
from tailrace_agent.observers.alerts import MOST, Alerts, as_tags, describe
from tailrace_agent.observers.webhook import Webhook
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.settings.sources import check_setting
from tailrace_agent.settings.uris import mask_url
from tailrace_agent.sinks.memory import MemorySink

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


# ── The webhook ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Receiver:
    """A web server that keeps what is posted to it, and answers what it is told to."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status = receiver.answers.pop(0) if receiver.answers else 204
                if status < 300:
                    receiver.got.append(body)
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/geheim7"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


class Posting:
    """A webhook with a clock that only the test moves."""

    def __init__(self, url: str) -> None:
        self.log, self.now = KeptLog(), 0.0
        self.told: list[str] = []
        self.webhook = Webhook(url, self.log, self.told.append, lambda: self.now)
        self.webhook.put("first", lambda: {"n": 1})
        self.webhook.put("second", lambda: {"n": 2})

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now <= end and self.webhook.pending:
            self.now = max(self.now, self.webhook.step(self.now))
            self.now += 0.001


def test_a_failure_that_may_pass_is_tried_again_in_order(receiver: Receiver) -> None:
    receiver.answers = [500, 429, 503]
    posting = Posting(receiver.url)
    posting.run(100)
    assert receiver.got == [{"n": 1}, {"n": 2}]
    assert not posting.webhook.pending


@pytest.mark.parametrize("status", [302, 400, 404])
def test_a_refusal_costs_one_alert_and_a_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    posting = Posting(receiver.url)
    posting.run(100)
    assert receiver.got == [{"n": 2}]
    assert f"HTTP {status}" in posting.log.texts[0]
    host = receiver.url.removesuffix("/services/geheim7")
    assert posting.told == [f"the alert 'first' could not be posted to {host}/…: HTTP {status}"]


@pytest.mark.parametrize("url", ["http://a..b/geheim7", f"http://{'a' * 64}.b/geheim7", "http://[::1/geheim7"])
def test_an_address_that_cannot_be_is_no_setting_and_is_given_up_at_once(url: str) -> None:
    with pytest.raises(SettingsError, match="alert_webhook"):
        check_setting("alert_webhook", url, str)
    posting = Posting(url)
    posting.run(1)
    assert not posting.webhook.pending
    assert len(posting.told) == 2
    assert "geheim7" not in " ".join(posting.told + posting.log.texts)


def test_a_receiver_that_drips_its_headers_is_given_up_with_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace_agent.observers.webhook._TIMEOUT", 0.2)
    with Proxy(9) as proxy, proxy.faulty(LIES["drips its headers"]) as seen:
        posting = Posting(proxy.url)
        posting.now = posting.webhook.step(posting.now)
        assert posting.webhook.pending
        assert "ConnectionError" in posting.log.texts[0] or "ReadTimeout" in posting.log.texts[0]
    assert len(seen) == 1


def test_a_server_that_is_away_is_given_up_and_no_line_shows_the_url() -> None:
    posting = Posting("http://127.0.0.1:1/services/geheim7?token=geheim7")
    posting.run(500)
    assert not posting.webhook.pending
    assert 120 <= posting.now < 200
    posting.webhook.put("last", dict)
    posting.webhook.finish(1.0)
    assert any("ConnectionError" in line for line in posting.log.texts)
    assert any("alert not posted" in line and "first" in line for line in posting.log.texts)
    assert posting.told[1] == "the alert 'second' could not be posted to http://127.0.0.1:1/…: ConnectionError"
    assert "geheim7" not in "".join([*posting.log.texts, *posting.told])


# ── As a user sees it ────────────────────────────────────────────────────────────────────────────────────────────────


def test_alerts_are_stored_told_and_posted(
    sqlite_uri: str, receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = ["loss is NaN", "gpu_0_temperature_celsius > 85"]
    with (
        tracking(sqlite_uri, alerts=rules, alert_webhook=receiver.url) as sdk,
        sdk.start_run(run_name="watched") as run,
    ):
        sdk.alert("at once", "before anything else")
        run.log(step=0, loss=0.5)
        run.log({"system/gpu_0_temperature_celsius": 90.0}, step=1)
        run.log(step=2, loss=math.nan)
        run.flush()
        sdk.alert("no surprise", level="info")
        assert eventually(lambda: len(receiver.got) == 4)
    store = Store(sqlite_uri, run)
    alerts = {key: text.partition("Z ")[2] for key, text in store.tags.items() if "alert" in key}
    assert set(alerts) == {f"tailrace.alert.00{n}" for n in (1, 2, 3, 4)}
    assert sorted(alerts.values()) == [
        "info: no surprise",
        "warning: at once: before anything else",
        "warning: gpu_0_temperature_celsius > 85: system/gpu_0_temperature_celsius is 90 at step 1",
        "warning: loss is NaN: loss is nan at step 2",
    ]
    told = [record.getMessage() for record in caplog.records if "alert" in record.getMessage()]
    assert told.count("tailrace: alert: at once (before anything else)") == 1
    assert told.count("tailrace: alert: loss is NaN (loss is nan at step 2)") == 1
    assert run.ledger().of("tag").delivered == 4
    posted = {body["title"]: body for body in receiver.got}
    assert posted["loss is NaN"]["text"] == "warning: loss is NaN: loss is nan at step 2 (run 'watched')"
    assert posted["loss is NaN"]["level"] == "warning"
    assert posted["no surprise"]["run"]["run_id"] == run.run_id
    assert posted["at once"]["run"]["run_name"] == "watched"
    kept = [path for path in (tmp_path / "tailrace").rglob("*") if path.is_file()]
    assert kept
    assert [path for path in kept if b"geheim7" in path.read_bytes()] == []


def test_a_commit_that_fails_raises_no_alert_twice(tmp_path: Path, receiver: Receiver) -> None:
    settings = Settings(dir=str(tmp_path / "state"), alerts=("loss is NaN",), alert_webhook=mask_url(receiver.url))
    session = Session.create(settings, cwd="/", program="x")
    ring, sink, log = session.new_ring(), MemorySink(), KeptLog()
    told = {mask_url(receiver.url): receiver.url}
    pipeline = Pipeline.open(session, lambda *_, **__: sink, log, hosted=True, credentials=told)
    for record in (
        Start(RunSpec(run=1, start_time=5, cwd="/")),
        (1, 7, SECOND, {"loss": math.nan}),
        Alert(1, "mine", "", "info", 1000),
    ):
        ring.put(encode(record))
    ingest, failures = pipeline.spool.ingest, iter(range(2))

    def fail(*args: Any, **more: Any) -> None:
        if next(failures, None) is not None:
            raise sqlite3.OperationalError("database or disk is full")
        ingest(*args, **more)

    pipeline.spool.ingest = fail  # type: ignore[method-assign]
    for now in (1.0, 2.0):
        with pytest.raises(sqlite3.OperationalError):
            pipeline.drain(now)
        assert not pipeline.observers.pending
    pipeline.drain(3.0)
    assert pipeline.observers.pending
    assert not pipeline.settled
    for _ in range(3):
        pipeline.observers.helpers["post"](1e9)
    assert sorted(body["title"] for body in receiver.got) == ["loss is NaN", "mine"]
    (channel,) = pipeline.channels.values()
    for now in range(4, 40):
        pipeline.drain(float(now))
        pipeline.deliver(channel, float(now))
    (stored,) = sink.runs.values()
    assert sorted(key for key in stored.tags if "alert" in key) == ["tailrace.alert.001", "tailrace.alert.002"]
    pipeline.close()
    session.remove()


def test_what_is_raised_just_before_the_end_is_posted(sqlite_uri: str, receiver: Receiver) -> None:
    with tracking(sqlite_uri, alert_webhook=receiver.url) as sdk:
        sdk.start_run()
        sdk.alert("the end")
    assert [body["title"] for body in receiver.got] == ["the end"]


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
