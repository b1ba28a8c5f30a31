"""Who looks on: what is raised is stored, told and posted once, and holds nothing up."""

from __future__ import annotations

import base64
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from helpers.kept_log import KeptLog
from helpers.mail_receiver import MailReceiver
from helpers.sdk_tools import Store, eventually, tracking
from helpers.webhook_receiver import Receiver
from tailrace import Settings
from tailrace_agent.ipc.records import Alert, RunSpec, Start, encode
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.settings.uris import mask_url
from tailrace_agent.sinks.memory import MemorySink

SECOND = 1_000_000_000


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

    def fail(*args: Any, **more: Any) -> Any:
        if next(failures, None) is not None:
            raise sqlite3.OperationalError("database or disk is full")
        return ingest(*args, **more)

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
    (destination,) = pipeline.by_uri.values()
    for now in range(4, 40):
        pipeline.drain(float(now))
        pipeline.deliver(destination, float(now))
    (stored,) = sink.runs.values()
    assert sorted(key for key in stored.tags if "alert" in key) == ["tailrace.alert.001", "tailrace.alert.002"]
    pipeline.close()
    session.remove()


@pytest.mark.slow
def test_what_is_raised_just_before_the_end_is_posted(sqlite_uri: str, receiver: Receiver) -> None:
    with tracking(sqlite_uri, alert_webhook=receiver.url) as sdk:
        sdk.start_run()
        sdk.alert("the end")
    assert [body["title"] for body in receiver.got] == ["the end"]


def test_alerts_go_to_services_with_a_picture_and_no_file_has_their_addresses(
    sqlite_uri: str, receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MailReceiver() as mails:
        urls = [receiver.url.replace("http://", "json://ada:geheim8@"), mails.url]
        with (
            tracking(sqlite_uri, alerts=["loss is NaN"], alert_urls=urls) as sdk,
            sdk.start_run(run_name="watched") as run,
        ):
            for step in range(100):
                run.log(step=step, loss=1 / (step + 1), lr=0.1)
            run.log(step=100, loss=math.nan)
            run.flush()
            assert eventually(lambda: receiver.got and mails.got)
    (posted,), (mail,) = receiver.got, mails.got
    assert posted["title"] == mail["subject"] == "warning: loss is NaN"
    assert posted["message"].startswith("loss is nan at step 100\nloss  █")
    assert "run 'watched'" in posted["message"]
    assert base64.b64decode(posted["attachments"][0]["base64"]).startswith(b"\x89PNG")
    assert [part.get_content_type() for part in mail.iter_attachments()] == ["image/png"]
    files = [path for path in (tmp_path / "tailrace").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if b"geheim" in path.read_bytes() or b"ada@example" in path.read_bytes()] == []
    assert "geheim" not in caplog.text
