"""The threads of an agent, and what happens where there are none to be had."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from helpers.kept_log import KeptLog
from helpers.sdk_tools import Store, eventually, tracking
from tailrace._runs.run_part import core_of
from tailrace_agent.hosts import spawn
from tailrace_agent.hosts.workers import Host
from tailrace_agent.pipeline.pipeline import Pipeline


def test_an_agent_that_gets_no_more_threads_works_in_the_one_that_it_has(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("tailrace-") and thread.name != "tailrace-drain":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)  # as CPython 3.12 does once the program is ending
    (tmp_path / "notes.txt").write_text("here")
    with tracking(sqlite_uri, metadata=True) as sdk:
        run = sdk.start_run()
        for step in range(300):
            sdk.log(step=step, loss=1 / (step + 1))
        sdk.log_artifact(tmp_path / "notes.txt")
        sdk.end_run()
        store = Store(sqlite_uri, run)
    assert store.status == "FINISHED"
    assert store.history("loss") == [(step, 1 / (step + 1)) for step in range(300)]
    assert "notes.txt" in store.artifacts()
    assert "environment/environment.json" in store.artifacts()
    assert json.loads(store.tags["tailrace.ledger"])["pending"] == 0
    log = core_of(run).connection.session.dir / "agent.log"  # type: ignore[union-attr]
    assert log.read_text().count("no thread to be had") == 1


class _FindsAStoreAtLast:
    """A pipeline whose drain, under way when the end is asked for, comes upon a store."""

    def __init__(self) -> None:
        self.by_uri: dict[str, object] = {}
        self.helpers: dict[str, Callable[[float], float]] = {}
        self.draining, self.goes_on = threading.Event(), threading.Event()
        self.threads, self.files = 1, 0

    def drain(self, now: float) -> float:
        self.draining.set()
        assert self.goes_on.wait(20)
        self.by_uri["found"] = SimpleNamespace(
            delivery=SimpleNamespace(threads=self.threads), files=SimpleNamespace(threads=self.files)
        )
        return now + 60

    def deliver(self, destination: object, now: float) -> float:
        return now + 60

    upload = store_files = deliver


def test_workers_that_begin_while_all_are_being_ended_are_ended_too() -> None:
    """Else they would go on for ever, over a spool that is closed."""
    pipeline, ended = _FindsAStoreAtLast(), list[bool]()
    host = Host(cast(Pipeline, pipeline), KeptLog())
    host.start()
    assert pipeline.draining.wait(20)
    ending = threading.Thread(target=lambda: ended.append(host.stop(20)))
    ending.start()
    eventually(lambda: host.drainer._stopping)
    pipeline.goes_on.set()
    ending.join(30)
    assert ended == [True]
    workers = host._others()
    assert len(workers) == 2
    assert not any(worker._thread.is_alive() for worker in workers)


@pytest.mark.slow
def test_a_program_that_began_with_the_version_before_starts_its_agent_by_the_old_name(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the code in memory that starts an agent; the modules on the disk are new ones."""
    assert "tailrace_agent.hosts.process" in spawn._BOOT
    before = spawn._BOOT.replace("tailrace_agent.hosts.process", "tailrace_agent.process_host")
    monkeypatch.setattr(spawn, "_BOOT", before)
    with tracking(sqlite_uri, agent="process") as sdk, sdk.start_run() as run:
        sdk.log(step=0, loss=0.5)
        assert run.flush().settled


def test_a_store_has_as_many_threads_as_there_are_runs_to_be_served_at_a_time_and_keeps_them() -> None:
    pipeline = _FindsAStoreAtLast()
    pipeline.goes_on.set()
    host = Host(cast(Pipeline, pipeline), KeptLog())
    counts = []
    for threads in (1, 3, 2, 4):
        pipeline.threads = threads
        host._drain(0.0)
        pipeline.files = threads - 1
        counts.append([len(host._workers["found", what]) for what in ("deliver", "store", "upload")])
    assert host.stop(20)
    assert counts == [[1, 0, 1], [3, 0, 1], [3, 2, 1], [4, 2, 1]]
