"""All nodes of a job are one run: one creation, nothing lost, every ledger whole, whoever is killed."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from simulation.clock import Clock, governed
from simulation.cluster import Cluster
from simulation.cluster_jobs import SCENARIOS, delivered, drawn
from simulation.journal import mark_of
from tailrace_agent.ipc.tags import ATTEMPT_TAG, END_REASON_TAG, LEDGER_TAG
from tailrace_agent.sinks.memory import MemoryRun, MemorySink

SEEDS = 24
NODES, RANKS = 64, 8


class OneRun:
    """A cluster over a store in memory, and what must hold in the end."""

    def __init__(self, folder: Path, clock: Clock, **more: Any) -> None:
        self.sink = MemorySink()
        self.cluster = Cluster(folder, clock, lambda _: self.sink, **more)

    def check(self, *statuses: str) -> MemoryRun:
        """All agents have left; what is in the store is what was logged, and the ledgers say so."""
        self.cluster.settle()
        assert len(self.sink.runs) == 1, f"one creation, and not {len(self.sink.runs)}"
        (run,) = self.sink.runs.values()
        stored = {mark_of(point) for points in run.metrics.values() for point in points}
        ours = {mark for mark in stored if mark[0] == "loss" or mark[0].startswith("grad/")}
        assert ours == self.cluster.logged
        assert delivered(self.cluster) == sum(map(len, run.metrics.values()))
        told = {tag: json.loads(text) for tag, text in run.tags.items() if tag.startswith(LEDGER_TAG)}
        assert all(ledger["pending"] == ledger["dead"] == 0 for ledger in told.values())
        counted = [ledger["kinds"].get("metric", {"delivered": 0, "merged": 0}) for ledger in told.values()]
        assert sum(each["delivered"] - each["merged"] for each in counted) == len(stored), sorted(told)
        attempt = max(rank.job.attempt for node in self.cluster.nodes for rank in node.ranks)
        assert run.tags.get(ATTEMPT_TAG, "0") == str(attempt)
        if run.status == "FINISHED":
            assert END_REASON_TAG not in run.tags
        assert run.status in (statuses or ("FINISHED",)), run.tags.get("tailrace.end_reason")
        return run


@contextmanager
def one_run(**more: Any) -> Iterator[OneRun]:
    clock = Clock()
    seed = more.get("seed", 0)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, governed(clock, random.Random(seed)):
        found = OneRun(Path(folder), clock, **more)
        with found.cluster.embodied():
            yield found


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_job_on_four_nodes_is_one_run_with_whole_ledgers_when(name: str) -> None:
    scenario, wrapped = SCENARIOS[name]
    with one_run(wrapped=wrapped) as found:
        found.check(*scenario(found.cluster, 4, 2))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_job_on_64_nodes_of_8_ranks_is_one_run_with_whole_ledgers_when(name: str) -> None:
    scenario, wrapped = SCENARIOS[name]
    # Of 64 agents that look ten times a second most looks are at nothing.
    with one_run(wrapped=wrapped, drain_interval=1.0) as found:
        found.check(*scenario(found.cluster, NODES, RANKS))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_falls_on_whichever_node_a_job_is_one_run_with_whole_ledgers(seed: int) -> None:
    _play(seed)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_thousand_jobs_are_one_run_each_with_whole_ledgers() -> None:
    for seed in range(SEEDS, 1000):
        _play(seed)


def _play(seed: int) -> None:
    rng = random.Random(seed)
    with one_run(seed=seed, wrapped=rng.random() < 0.3, flush_interval=rng.choice((0.05, 0.5))) as found:
        found.check(*drawn(found.cluster, rng))
