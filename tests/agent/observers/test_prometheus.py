"""The endpoint for Prometheus: what a scrape sees, and that a port that is taken is no dead end."""

from __future__ import annotations

import math
import os
import socket
import urllib.error
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from helpers.scraping import CollectorRig, endpoint, fetch, read
from helpers.sdk_tools import eventually, tracking
from tailrace import Settings
from tailrace._messages.summary import start_line
from tailrace._runs.run_part import core_of
from tailrace_agent.cli._look import look
from tailrace_agent.cli._views import SessionView
from tailrace_agent.cli.status import _title
from tailrace_agent.ipc.records import End, RunSpec
from tailrace_agent.sinks.base import RunRef


def test_each_metric_shows_its_latest_value_under_its_own_name(rig: CollectorRig) -> None:
    rig.start(1, experiment_name="digits", run_name="first")
    rig.book.update(1, ref=RunRef("abc", "7", "first", None))
    rig.saw(1, {"train/loss": 0.5, "a b": math.nan}, step=1, at=10)
    rig.saw(1, {"train/loss": 0.4, "a_b": math.inf, "b": -math.inf, "ok": True}, step=2, at=2_000_000_000)
    rig.saw(1, {"train/loss": 0.9}, step=1, at=5)  # older, from another process's ring
    rig.saw(1, {"system/gpu_0_temperature_celsius": 61.0}, step=9, at=30, system=True)
    found = rig.scrape()
    assert found["tailrace_metric_train_loss", "train/loss"] == 0.4
    assert math.isnan(found["tailrace_metric_a_b", "a b"])
    assert found["tailrace_metric_a_b", "a_b"] == math.inf
    assert found["tailrace_metric_b", "b"] == -math.inf
    assert found["tailrace_metric_ok", "ok"] == 1.0
    assert found["tailrace_metric_system_gpu_0_temperature_celsius", "system/gpu_0_temperature_celsius"] == 61.0
    assert found["tailrace_run_step", ""] == 1, "a sample of the machine is no step of training"
    labels = '{experiment="digits",metric="train/loss",run_id="abc",run_name="first"}'
    assert f"tailrace_metric_train_loss{labels} 0.4\n" in rig.text()


def test_the_agents_health_and_the_runs_ledger_are_there(rig: CollectorRig) -> None:
    rig.start(1)
    rig.spool.ingest(
        [(1, "metric", 5, 990 * 10**9, b"x")], [(1, "metric", "accepted", 8), (1, "metric", "delivered", 2)]
    )
    rig.spool.ingest([], [(1, "metric", "dropped:why", 1)])
    rig.book.update(1, problem="away", alerts=3)
    found = {name: value for (name, _), value in rig.scrape().items()}
    assert found["tailrace_agent_info"] == 1
    assert (found["tailrace_agent_pending"], found["tailrace_agent_spool_bytes"]) == (5, 1)
    assert (found["tailrace_run_pending"], found["tailrace_run_delivered_total"]) == (5, 2)
    assert (found["tailrace_run_dropped_total"], found["tailrace_run_dead_total"]) == (1, 0)
    assert (found["tailrace_run_lag_seconds"], found["tailrace_run_alerts_total"]) == (10, 3)
    assert (found["tailrace_run_problem"], found["tailrace_run_running"]) == (1, 1)


def test_a_run_is_shown_for_five_minutes_after_its_end_and_then_forgotten(rig: CollectorRig) -> None:
    rig.start(1)
    rig.saw(1, {"loss": 1.0})
    rig.book.end(End(1, "FINISHED", 1_000_000))
    rig.now = 1299.0
    assert rig.scrape()["tailrace_run_running", ""] == 0
    assert ("tailrace_metric_loss", "loss") in rig.scrape()
    rig.now = 1301.0
    assert {name for name, _ in rig.scrape() if not name.startswith("tailrace_agent")} == set()
    assert rig.latest.of(1) == {}


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1, max_size=12), st.floats(), min_size=1, max_size=5),
    st.text(max_size=12),
)
def test_any_names_and_values_make_a_scrape_that_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, float], name: str
) -> None:
    rig = CollectorRig(tmp_path_factory.mktemp("rig"))
    values = {key.encode(errors="replace").decode(): value for key, value in values.items()}
    rig.start(1, run_name=name.encode(errors="replace").decode())
    rig.saw(1, values)
    for families in (
        text_string_to_metric_families(rig.text()),
        parse_openmetrics(generate_openmetrics(rig.registry).decode()),
    ):
        samples = [sample for family in families for sample in family.samples]
        found = {s.labels["metric"]: s.value for s in samples if "metric" in s.labels}
        assert found.keys() == values.keys()
        assert all(found[key] == values[key] or math.isnan(values[key]) for key in values)
    rig.spool.close()


def test_a_port_that_is_taken_gives_way_to_the_next_one_and_is_told(rig: CollectorRig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served, told = endpoint(rig, port)
        assert served.step(0.0) > 600
    try:
        assert served.url is not None
        assert served.url != f"http://127.0.0.1:{port}/metrics"
        assert told == [f"port {port} is taken: metrics are served to Prometheus at {served.url}"]
        assert "tailrace_agent_info" in fetch(served.url)
    finally:
        served.close()
    assert served.url is None


def test_an_address_that_cannot_be_used_is_told_and_tried_again(rig: CollectorRig) -> None:
    served, told = endpoint(rig, 0, "203.0.113.1")
    assert served.step(0.0) == 30.0
    assert told[0].startswith("metrics cannot be served to Prometheus on 203.0.113.1 port 0: ")
    assert served.url is None
    served.close()


def test_where_it_serves_is_shown_when_a_run_starts_and_by_status() -> None:
    spec = RunSpec(run=1, start_time=5, cwd="/", tracking_uri="http://mlflow")
    asked = Settings(prometheus_port=9400)
    assert start_line(spec, asked) == "run in experiment 'Default' → http://mlflow, Prometheus at 127.0.0.1:9400"
    assert "Prometheus" not in start_line(spec, Settings(prometheus_port=0)), "the agent tells which one it is"
    view = SessionView(id="s", state="live", program="x", host="h", created=0, directory="/", trainer_alive=True)
    assert "metrics at" not in str(_title(view, 1.0))
    view.metrics_url = "http://127.0.0.1:9401/metrics"
    assert str(_title(view, 1.0)).endswith(", metrics at http://127.0.0.1:9401/metrics")


def test_a_run_is_scraped_while_it_lasts(sqlite_uri: str) -> None:
    settings = {"prometheus_port": 0, "log_system_metrics": True, "system_metrics_interval": 0.1}
    with tracking(sqlite_uri, **settings) as sdk:
        run = sdk.start_run(run_name="scraped", experiment_name="digits")
        with run:
            sdk.log(step=3, loss=0.25)
            assert core_of(run).connection is not None
            url = eventually(lambda: look(core_of(run).connection.session).metrics_url)  # type: ignore[union-attr]
            assert url is not None
            text = eventually(lambda: found if "tailrace_metric_system_cpu" in (found := fetch(url)) else None)
            assert text is not None
            assert read(text)["tailrace_metric_loss", "loss"] == 0.25
            assert 'experiment="digits"' in text
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            assert "tailrace_metric_loss" in fetch(url), "a forked child closes its own copy of the socket only"
            notices = core_of(run).status().notices  # type: ignore[union-attr]
            assert notices == [f"metrics are served to Prometheus at {url}"]
    with pytest.raises(urllib.error.URLError):
        fetch(url)
