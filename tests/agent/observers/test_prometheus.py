"""The endpoint for Prometheus: what a scrape sees, and that a port that is taken is no dead end."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from helpers.kept_log import KeptLog
from helpers.sdk_tools import Store, eventually, tracking
from tailrace import Settings
from tailrace._messages.summary import start_line
from tailrace._runs.core import core_of
from tailrace_agent.cli._look import look
from tailrace_agent.cli._views import SessionView
from tailrace_agent.cli.status import _title
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc import status
from tailrace_agent.ipc.records import End, RunSpec, Start
from tailrace_agent.ipc.status import AgentStatus
from tailrace_agent.observers import last_values as latest_module
from tailrace_agent.observers import scrape_server
from tailrace_agent.observers.last_values import LastValues
from tailrace_agent.observers.prometheus import Endpoint, RunCollector
from tailrace_agent.observers.scrape_server import is_ours
from tailrace_agent.sinks.base import RunRef
from tailrace_agent.spool.store import Spool

Samples = dict[tuple[str, str], float]
"""Values by sample name and the label `metric`."""


class CollectorRig:
    """A collector and what it looks at."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.spool = Spool(folder / "spool.db")
        self.book = RunBook({}, lambda _run, _state: None)
        self.latest = LastValues()
        self.collector = RunCollector(self.latest, self.book, self.spool, "session-1", lambda: self.now)
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self.collector)

    def start(self, run: int, **spec: Any) -> None:
        self.book.start(Start(RunSpec(run=run, start_time=5, cwd="/", **spec)), "ring")

    def saw(self, run: int, values: dict[str, float], *, step: int = 0, at: int = 0, system: bool = False) -> None:
        self.latest.saw(run, step, at, values, system=system)

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def scrape(self) -> Samples:
        return read(self.text())


def read(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(s.name, s.labels.get("metric", "")): s.value for family in families for s in family.samples}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CollectorRig]:
    rig = CollectorRig(tmp_path)
    yield rig
    rig.spool.close()


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


def test_memory_is_bounded_and_what_is_left_out_is_counted(rig: CollectorRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest_module, "_MOST_OF_RUN", 3)
    monkeypatch.setattr(latest_module, "_MOST", 4)
    rig.start(1)
    rig.start(2)
    rig.saw(1, {str(n): 0.0 for n in range(5)})
    rig.saw(2, {"a": 0.0, "b": 0.0})
    rig.saw(1, {"0": 7.0}, at=1)
    assert rig.scrape()["tailrace_metric_0", "0"] == 7.0
    assert rig.scrape()["tailrace_agent_metrics_left_out", ""] == 3
    rig.latest.keep_only([2])
    rig.saw(2, {"b": 1.0, "c": 1.0})
    assert set(rig.latest.of(2)) == {"a", "b", "c"}


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


def endpoint(rig: CollectorRig, port: int, host: str = "127.0.0.1") -> tuple[Endpoint, list[str]]:
    told: list[str] = []
    return Endpoint(rig.collector, host, port, told.append, KeptLog()), told


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


@pytest.fixture
def address(rig: CollectorRig) -> Iterator[tuple[str, int]]:
    """Where a collector is served."""
    served, _ = endpoint(rig, 0)
    served.step(0.0)
    assert served.url is not None
    yield "127.0.0.1", int(served.url.split(":")[2].split("/")[0])
    served.close()


def asked(address: tuple[str, int], request: str) -> str:
    """All that is answered to it."""
    with socket.create_connection(address, 30) as connection:
        with contextlib.suppress(OSError):  # it need not be read to its end
            connection.sendall(request.encode("latin-1"))
        with contextlib.suppress(ConnectionResetError):  # what was not read is thrown away with the connection
            return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
        return ""


def descriptors(process: int | str = "self") -> int:
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())


def is_ended(connection: socket.socket) -> bool:
    connection.settimeout(30)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def is_refused(connection: socket.socket) -> bool:
    """Whether one more byte finds nobody."""
    try:
        connection.sendall(b"G")
    except OSError:
        return True
    return False


def test_many_idle_connections_take_few_descriptors_and_no_scrape(rig: CollectorRig, address: tuple[str, int]) -> None:
    before = descriptors(), threading.active_count()
    idle = [socket.create_connection(address, 30) for _ in range(300)]
    assert eventually(lambda: all(is_ended(each) for each in idle[:-8]))
    assert "tailrace_agent_info" in fetch(f"http://127.0.0.1:{address[1]}/metrics")
    assert descriptors() - len(idle) <= before[0] + 8
    assert threading.active_count() <= before[1] + 8
    for each in idle:
        each.close()


@pytest.mark.parametrize("kind", ["idle", "a byte at a time", "unread"])
def test_a_connection_lasts_for_seconds_whatever_comes_on_it(
    rig: CollectorRig, address: tuple[str, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape_server, "_LASTS", 1.0)
    rig.start(1)
    rig.saw(1, {"x" * 250 + str(n): 0.0 for n in range(10_000)})
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        if kind == "a byte at a time":
            assert eventually(lambda: is_refused(connection))
        elif kind == "idle":
            assert is_ended(connection)
        else:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.settimeout(30)
            assert connection.recv(4, socket.MSG_WAITALL) == b"HTTP"
            assert eventually(lambda: not any(t.name.startswith("Thread") for t in threading.enumerate()))
            with contextlib.suppress(ConnectionResetError):
                got = len(b"".join(iter(lambda: connection.recv(1 << 16), b"")))
                assert got < len(rig.text())


@pytest.mark.parametrize(
    ("request_", "answered"),
    [
        ("GET /metrics HTTP/1.1\r\nHost: localhost:9400\r\n\r\n", 200),
        ("GET /metrics HTTP/1.1\r\nHost: LOCALHOST.\r\n\r\n", 200),
        ("GET /metrics HTTP/1.1\r\nHost: 192.0.2.7:9400\r\n\r\n", 200),
        ("GET /metrics HTTP/1.1\r\nHost: [::1]:9400\r\n\r\n", 200),
        (f"GET /metrics HTTP/1.1\r\nHost: {os.uname().nodename}:1\r\n\r\n", 200),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", 200),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", 421),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 421),
        ("GET /metrics HTTP/1.1\r\nHost: [\r\n\r\n", 421),
        ("GET /metrics HTTP/1.1\r\nHost:\r\n\r\n", 421),
        ("GET /metrics HTTP/1.1\r\n\r\n", 421),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain;version=x\r\n\r\n", 400),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        ("DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (f"GET /{'x' * 20_000} HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (f"GET / HTTP/1.1\r\nHost: localhost\r\nX: {'x' * 20_000}\r\n\r\n", 431),
        (f"GET / HTTP/1.1\r\nHost: localhost\r\n{'X: x' * 5}\r\n" + 3000 * "A: bcdef\r\n" + "\r\n", 431),
        ("what is this\r\n\r\n", 400),
    ],
)
def test_a_request_is_answered_or_refused_by_its_head(address: tuple[str, int], request_: str, answered: int) -> None:
    answer = asked(address, request_)
    if answered == 431:  # what was not read may take the answer with it; and without a version there is no status line
        assert not answer or "431" in answer
    elif request_.startswith("what"):
        assert "400" in answer
    else:
        assert answer.split(" ")[1] == str(answered)
    assert ("tailrace_agent_info" in answer) == (answered == 200)
    assert "tailrace_agent_info" in fetch(f"http://127.0.0.1:{address[1]}/metrics"), "it goes on"


def test_a_name_that_it_listens_on_is_one_that_it_answers_to(rig: CollectorRig) -> None:
    assert is_ours("Node7.example:9400", {"node7.example"})
    assert not is_ours("node7.example", {"node8.example"})
    served, _ = endpoint(rig, 0, "LocalHost")
    served.step(0.0)
    assert served.url is not None
    assert "tailrace_agent_info" in fetch(served.url)
    served.close()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


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


@pytest.mark.faults
def test_delivery_goes_on_under_more_idle_connections_than_the_agent_may_have_descriptors(sqlite_uri: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle: list[socket.socket] = []
    try:
        with tracking(sqlite_uri, agent="process", prometheus_port=0) as sdk, sdk.start_run() as run:
            sdk.log(step=0, loss=0.5)
            assert run.flush(60).settled
            connection = core_of(run).connection
            assert connection is not None
            told = (
                connection.session.shared / "agent.status"
            )  # `look` would open the program's own locks, and lose them
            eventually(lambda: (found := status.read(told, AgentStatus)) and found.metrics_url)
            found = status.read(told, AgentStatus)
            assert found is not None
            assert found.metrics_url is not None
            agent, url = found.pid, found.metrics_url
            resource.prlimit(agent, resource.RLIMIT_NOFILE, (256, 256))
            address = "127.0.0.1", int(url.split(":")[2].split("/")[0])
            idle += [socket.create_connection(address, 60) for _ in range(1600)]
            before = descriptors(agent)
            for step in range(1, 500):
                sdk.log(step=step, loss=0.5)
            assert run.flush(60).settled
            assert before < 128
            assert "tailrace_metric_loss" in fetch(url)
        assert len(Store(sqlite_uri, run).history("loss")) == 500
    finally:
        for each in idle:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
