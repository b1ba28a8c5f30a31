"""How objects show themselves: short, from what is known now, and never as foreign HTML."""

from __future__ import annotations

from datetime import datetime, timezone
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest

import tailrace
from helpers.sdk_tools import tracking
from tailrace._api.info import ExperimentInfo
from tailrace._api.model_handle import ModelHandle
from tailrace._models.progress import ModelProgress
from tailrace._runs.run_part import core_of
from tailrace_agent.ipc.records import ModelOutcome
from tailrace_agent.ledger import Counts, Ledger
from tailrace_agent.reading.comparison import Comparison
from tailrace_agent.reading.record import RunRecord
from tailrace_agent.text.cards import card

AWAY = "http://127.0.0.1:9"
NASTY = "<script>alert('&')</script>\x1b[2J"


class Seen(HTMLParser):
    """What a browser would see: elements, links and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str | None] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def html(shown: Any) -> Seen:
    return Seen(shown._repr_html_())


def record(**changes: Any) -> RunRecord:
    known: dict[str, Any] = {
        "run_id": "0f" * 16,
        "run_name": "baseline",
        "experiment_id": "3",
        "status": "FINISHED",
        "start_time": datetime(2026, 1, 1, 12, 0, 0, 999, timezone.utc),
        "end_time": datetime(2026, 1, 1, 12, 1, 30, 999, timezone.utc),
        "params": {"lr": "0.1"},
        "metrics": {"loss": 0.5, "accuracy": 0.9},
        "tags": {},
        "artifact_uri": "mlflow-artifacts:/3",
        "url": "http://127.0.0.1:5000/#/experiments/3/runs/0f",
        "deleted": False,
    }
    return RunRecord(**{**known, **changes})


@pytest.mark.slow
def test_a_run_shows_what_is_known_and_waits_for_nothing(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def waits(*_: object, **__: object) -> None:
        raise AssertionError("a repr must not wait")

    with tracking(AWAY, on_error="warn", end_timeout=0, linger=0) as sdk:
        run = sdk.start_run(run_name=NASTY, experiment_name="digits")
        monkeypatch.setattr("tailrace._runs.ending.until", waits)
        assert repr(run) == f"<tailrace.Run {NASTY!r}: RUNNING, id={run.id}>"
        assert repr(run.info) == f"<tailrace.RunInfo {NASTY!r}: RUNNING>"
        assert html(run).texts[:3] == [NASTY, "● RUNNING", "experiment digits"]
        assert html(run).tags == {"div", "span"}
        assert html(run.info).texts[0] == "tailrace.RunInfo"
        assert html(run.info).tags == {"table", "tr", "th", "td"}
        assert caplog.records == []
        monkeypatch.undo()
        run.end()

    with tracking(sqlite_uri) as sdk:
        with sdk.start_run() as run:
            assert run.run_id
            assert repr(run) == f"<tailrace.Run {run.run_name!r}: RUNNING, run_id={run.run_id}>"
        assert repr(run.info) == f"<tailrace.RunInfo {run.run_name!r}: FINISHED, run_id={run.run_id}, experiment_id=0>"
        assert html(run).links == []
        with sdk.start_run(agent="off", run_name="off", backend="none") as off:
            assert repr(off) == f"<tailrace.Run 'off': RUNNING, id={off.id}, tracking is off>"


def test_a_run_on_a_server_has_a_link(mlflow_server: str) -> None:
    with tracking(mlflow_server, experiment_name="reprs") as sdk, sdk.start_run(run_name="linked") as run:
        assert run.url
        assert repr(run) == f"<tailrace.Run 'linked': RUNNING, {run.url}>"
        assert html(run).links == [run.url]


def test_showing_a_run_tells_nothing_that_a_call_should_tell(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace._session.connection.listen", lambda *_: None)  # which tells it at once
    with tracking(sqlite_uri) as sdk, sdk.start_run() as run:
        sdk.log(loss="high")
        connection = core_of(run).connection
        assert connection is not None
        while not getattr(connection.status(core_of(run).spec.run), "notices", ()):
            assert "RUNNING" in repr(run)
        assert "RUNNING" in repr(run) + run._repr_html_() + repr(run.info)
        assert caplog.records == []
        sdk.flush()
        assert "'loss' was not logged" in caplog.text


def test_a_ledger_is_one_line_and_a_table_by_kind() -> None:
    ledger = Ledger(
        kinds={
            "param": Counts(accepted=2, delivered=1, dead=1),
            "metric": Counts(accepted=12_000, delivered=11_000, dropped={"<b>": 3, "disk full": 0}),
        },
        partial=True,
    )
    assert repr(ledger) == (
        "<tailrace.Ledger: 12,002 accepted, 11,001 delivered, 997 pending, 1 dead, 3 dropped: <b>, not all counted yet>"
    )
    assert html(ledger).texts == [
        "tailrace.Ledger (not all counted yet)",
        *("accepted", "delivered", "pending", "dead", "dropped"),
        *("metric", "12,000", "11,000", "997", "0", "3 <b>"),
        *("param", "2", "1", "0", "1", "0"),
        *("total", "12,002", "11,001", "997", "1", "3 <b>"),
    ]
    assert repr(Ledger()) == "<tailrace.Ledger: 0 accepted, 0 delivered>"
    assert html(Ledger()).texts[-6:] == ["total", "0", "0", "0", "0", "0"]


def test_a_run_that_was_read_back_is_one_line_and_a_small_table() -> None:
    assert repr(record()) == (
        "<tailrace.RunRecord 'baseline': FINISHED, 1 param, 2 metrics, http://127.0.0.1:5000/#/experiments/3/runs/0f>"
    )
    assert (
        repr(record(url=None, run_name="")) == f"<tailrace.RunRecord: FINISHED, 1 param, 2 metrics, run_id={'0f' * 16}>"
    )
    seen = html(record())
    assert seen.links == ["http://127.0.0.1:5000/#/experiments/3/runs/0f"]
    assert seen.texts[:9] == [
        "tailrace.RunRecord",
        *("name", "baseline"),
        *("status", "FINISHED"),
        *("started", "2026-01-01 12:00:00 UTC"),
        *("duration", "90.0 s"),
    ]
    nasty = html(record(run_name=NASTY, url=f"javascript:{NASTY}", end_time=None, deleted=True))
    assert nasty.links == []
    assert nasty.tags == {"table", "tr", "th", "td"}
    assert NASTY in nasty.texts


def test_an_address_is_a_link_only_if_a_browser_opens_it_as_a_page() -> None:
    addresses = [
        "https://x/y?a=1&b=2",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "http://x/\"onclick='x'",
        "data:,x",
    ]
    seen = Seen(card("Run", [("link", address) for address in addresses]))
    assert seen.links == [addresses[0], addresses[3]]
    assert [text for text in seen.texts if text != "link"][1:] == addresses


def test_an_experiment_a_model_and_a_comparison_show_themselves(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as sdk:
        assert repr(sdk.set_experiment(experiment_id="7")) == "<tailrace.ExperimentInfo: experiment_id=7>"
        named = sdk.set_experiment(NASTY)
        assert isinstance(named, ExperimentInfo)
        assert repr(named) == f"<tailrace.ExperimentInfo {NASTY!r}>"
        assert html(named).tags == {"table", "tr", "th", "td"}
    pending = ModelHandle("net", ModelProgress(None, "0"))
    known = ModelHandle("net", ModelProgress(None, "1", ModelOutcome("models:/m-1", "3")))
    failed = ModelHandle("net", ModelProgress(None, "2", ModelOutcome(error="no room")))
    assert repr(pending) == "<tailrace.ModelHandle 'net': on its way>"
    assert repr(known) == "<tailrace.ModelHandle 'net': in MLflow, models:/m-1, version 3>"
    assert repr(failed) == "<tailrace.ModelHandle 'net': no room>"
    assert html(known).texts[1:] == [
        "name",
        "net",
        "state",
        "in MLflow",
        "model_uri",
        "models:/m-1",
        "version",
        "version 3",
    ]
    comparison = Comparison({"run_name": [NASTY], "params.lr": ["0.1"]}, index=pd.Index(["0f"], name="run_id"))
    assert "script" not in html(comparison).tags
    assert "params.lr" in html(comparison).texts


def test_dir_has_the_names_that_are_loaded_when_they_are_asked_for() -> None:
    assert set(tailrace.__all__) <= set(dir(tailrace))
    assert dir(tailrace) == sorted(dir(tailrace))
