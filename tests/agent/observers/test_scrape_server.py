"""Scrapes are answered, whoever else connects and whatever he sends."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from pathlib import Path

import pytest

from helpers.scraping import CollectorRig, endpoint, fetch
from helpers.sdk_tools import Store, eventually, tracking
from tailrace._runs.run_part import core_of
from tailrace_agent.ipc import status
from tailrace_agent.ipc.status import AgentStatus
from tailrace_agent.observers import scrape_server
from tailrace_agent.observers.scrape_server import is_ours


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


@pytest.mark.slow
def test_many_idle_connections_take_few_descriptors_and_no_scrape(rig: CollectorRig, address: tuple[str, int]) -> None:
    before = descriptors(), threading.active_count()
    idle = [socket.create_connection(address, 30) for _ in range(300)]
    assert eventually(lambda: all(is_ended(each) for each in idle[:-8]))
    assert "tailrace_agent_info" in fetch(f"http://127.0.0.1:{address[1]}/metrics")
    assert descriptors() - len(idle) <= before[0] + 8
    assert threading.active_count() <= before[1] + 8
    for each in idle:
        each.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["idle", "a byte at a time", "unread"])
def test_a_connection_lasts_for_seconds_whatever_comes_on_it(
    rig: CollectorRig, address: tuple[str, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Megabytes are made before the first of them is sent, on a busy machine in a second.
    monkeypatch.setattr(scrape_server, "_LASTS", 4.0 if kind == "unread" else 1.0)
    rig.start(1)
    rig.saw(1, {"x" * 250 + str(n): 0.0 for n in range(10_000)})
    before = {*threading.enumerate()}  # others' may be among them, as a progress bar's
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
            assert eventually(
                lambda: not any(t.name.startswith("Thread") for t in threading.enumerate() if t not in before)
            )
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
