"""The threads of an agent, and what happens where there are none to be had."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from helpers.sdk_tools import Store, tracking
from tailrace._runs.core import core_of
from tailrace_agent.hosts import spawn


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
