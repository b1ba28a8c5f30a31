"""The network's interfaces come and go, and what they carried is counted since the start."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from helpers.loads import READY, WAIT, child, linux
from tailrace_agent.sampler.network import NetworkSource
from tailrace_agent.sampler.source import SourceGone


def test_network_is_counted_since_the_start_and_interfaces_may_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    now: dict[str, Any] = {}
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: now)

    def interface(name: str, received: int, sent: int) -> None:
        now[name] = SimpleNamespace(bytes_recv=received, bytes_sent=sent)

    source = NetworkSource()
    with pytest.raises(SourceGone):
        source.sample(0.0)
    interface("eth0", 5_000_000, 7_000_000)
    assert source.sample(0.0) == {"network_receive_megabytes": 0.0, "network_transmit_megabytes": 0.0}
    interface("eth0", 9_000_000, 7_000_000)
    interface("veth1", 80_000_000, 0)  # counted from here on
    assert source.sample(2.0) == {
        "network_receive_megabytes": 4.0,
        "network_transmit_megabytes": 0.0,
        "network_receive_megabytes_per_second": 2.0,
        "network_transmit_megabytes_per_second": 0.0,
    }
    del now["veth1"]
    interface("eth0", 1_000_000, 0)  # restarted
    assert source.sample(4.0)["network_receive_megabytes"] == 4.0
    interface("eth0", 3_000_000, 0)
    assert source.sample(6.0)["network_receive_megabytes_per_second"] == 1.0


@linux
def test_network_agrees_with_proc() -> None:
    def received() -> int:
        lines = Path("/proc/net/dev").read_text().splitlines()[2:]
        return sum(int(line.partition(":")[2].split()[0]) for line in lines)

    source = NetworkSource()
    before = received()
    source.sample(0.0)
    code = "import socket\na = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\na.bind(('127.0.0.1', 0))\n"
    code += "for _ in range(500): a.sendto(bytes(10000), a.getsockname()); a.recv(20000)\n"
    with child(code + READY + WAIT):
        values = source.sample(1.0)
        after = received()
    assert 5.0 <= values["network_receive_megabytes"] <= (after - before) / 1e6
