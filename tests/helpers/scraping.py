"""A collector of metrics, and its scrapes."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from helpers.kept_log import KeptLog
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.records import RunSpec, Start
from tailrace_agent.observers.last_values import LastValues
from tailrace_agent.observers.prometheus import Endpoint, RunCollector
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


def endpoint(rig: CollectorRig, port: int, host: str = "127.0.0.1") -> tuple[Endpoint, list[str]]:
    told: list[str] = []
    return Endpoint(rig.collector, host, port, told.append, KeptLog()), told


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
