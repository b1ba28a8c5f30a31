"""A job on 64 nodes of 8 ranks into one PostgreSQL: four of them through a server with the bulk route, 60 directly."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from helpers.entry_points import lay_entry_points
from helpers.serving import serving
from services.backends import fresh_database
from services.postgresql import PostgreSQL
from simulation.clock import Clock, governed
from simulation.cluster import Cluster, Node
from simulation.cluster_jobs import SCENARIOS, delivered
from tailrace_agent.ipc.tags import LEDGER_TAG
from tailrace_agent.sinks.base import Sink
from tailrace_agent.sinks.mlflow import open_sink

pytestmark = pytest.mark.services

NODES, RANKS = 64, 8
_EVERY = 16  # every so many nodes one goes through the server


@pytest.fixture
def ways(postgresql_server: PostgreSQL, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The server's address, and that of its database."""
    database = fresh_database(postgresql_server, "+psycopg2")
    path = lay_entry_points(tmp_path / "installed")
    arguments = ["--backend-store-uri", database, "--app-name", "tailrace"]
    with serving(tmp_path, *arguments, PYTHONPATH=path) as server:
        yield server, database


@contextmanager
def _cluster(opened: Callable[[Node], Sink], **more: bool) -> Iterator[Cluster]:
    clock = Clock()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, governed(clock, random.Random(1)):
        cluster = Cluster(Path(folder), clock, opened, drain_interval=1.0, **more)
        with cluster.embodied():
            yield cluster


@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    "name",
    ["the agent of rank 0's node is killed", "all start anew on fewer nodes", "the server is away for the whole start"],
)
def test_64_nodes_are_one_run_in_postgresql_when(ways: tuple[str, str], name: str) -> None:
    server, database = ways
    directly = open_sink(database, "/", request_timeout=60.0)

    def opened(node: Node) -> Sink:
        return directly if node.index % _EVERY else open_sink(server, "/", request_timeout=60.0, own_process=True)

    scenario, wrapped = SCENARIOS[name]
    with _cluster(opened, wrapped=wrapped) as cluster:
        statuses = scenario(cluster, NODES, RANKS)
        cluster.settle()
        rows = delivered(cluster)
        logged = len(cluster.logged)
    (run,) = MlflowClient(database).search_runs(["0"], run_view_type=ViewType.ALL)
    assert run.info.status in statuses
    counts = directly.count_metrics(run.info.run_id)
    assert sum(counts.values()) == rows == _told(run)
    assert sum(n for key, n in counts.items() if key == "loss" or key.startswith("grad/")) == logged


def _told(run: Run) -> int:
    """Rows that the ledgers in the run's tags speak of; nothing waits, and nothing is dead."""
    ledgers = [json.loads(text) for tag, text in run.data.tags.items() if tag.startswith(LEDGER_TAG)]
    assert all(ledger["pending"] == ledger["dead"] == 0 for ledger in ledgers)
    metrics = [ledger["kinds"].get("metric", {"delivered": 0, "merged": 0}) for ledger in ledgers]
    return sum(metric["delivered"] - metric["merged"] for metric in metrics)
