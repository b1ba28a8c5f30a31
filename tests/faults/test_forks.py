"""Fault 12: forks with the lock held, children of every kind, threads, and logging in the midst of logging."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from faults.families import begin, end, whole
from faults.oracle import MlflowDatabase, check, check_ledger, eventually
from tailrace_agent.ipc import status
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus
from tailrace_agent.settings.settings import Settings


@pytest.mark.parametrize("agent", ["process", pytest.param("thread", marks=pytest.mark.faults)])
def test_children_forked_while_other_threads_hold_the_lock_neither_hang_nor_lose_nor_double_a_row(
    agent: str, sqlite_uri: str, tmp_path: Path
) -> None:
    said, journal = whole("forks", sqlite_uri, tmp_path, 12, TAILRACE_AGENT=agent)
    run = MlflowDatabase(sqlite_uri).settled(said["run"][0])
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    noted = journal.read()
    keys = {point.key for point in noted}
    assert {f"fork{i}/x" for i in range(12)} <= keys
    check([p for p in noted if p.key.startswith("fork")], [r for r in rows if r.key.startswith("fork")])
    hammered = [r for r in rows if r.key.startswith("hammer")]
    for key in ("hammer0/x", "hammer1/x"):
        steps = sorted(r.step for r in hammered if r.key == key)
        assert steps == list(range(len(steps))), "a row of the parent was lost or doubled"
    check_ledger(run, len(rows))


@pytest.mark.slow
def test_children_of_multiprocessing_and_their_children_join_the_run(sqlite_uri: str, tmp_path: Path) -> None:
    said, journal = whole("kinds", sqlite_uri, tmp_path, 2)
    run = MlflowDatabase(sqlite_uri).settled(said["run"][0])
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    check(journal.read(), rows)
    check_ledger(run, len(rows))
    assert len({row.key for row in rows}) == 2 * (2 + 1 + 1 + 1)
    assert len(MlflowDatabase(sqlite_uri).runs()) == 1


@pytest.mark.slow
def test_workers_of_a_torch_data_loader_log_to_the_run(sqlite_uri: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: its DataLoader is not tested")
    said, journal = whole("loaders", sqlite_uri, tmp_path, 2)
    run = MlflowDatabase(sqlite_uri).settled(said["run"][0])
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    assert len(rows) == 420
    check(journal.read(), rows)
    check_ledger(run, len(rows))


@pytest.mark.slow
def test_an_agent_killed_while_forked_children_live_is_replaced_within_two_seconds(
    sqlite_uri: str, tmp_path: Path
) -> None:
    process, journal = begin("orphans", sqlite_uri, tmp_path, 2)
    assert process.stdout is not None
    run_id = process.stdout.readline().split()[1]
    assert process.stdout.readline() == "ready\n"
    (session,) = Session.all(Settings(dir=os.environ["TAILRACE_DIR"]))

    def agent() -> int:
        found = status.read(session.shared / "agent.status", AgentStatus)
        return found.pid if found is not None else 0

    eventually(agent, 10, "an agent")
    time.sleep(1.0)  # the keeper has long been asleep in the kernel when the children are forked
    for _ in range(2):
        old = agent()
        os.kill(old, signal.SIGKILL)
        began = time.monotonic()
        try:
            eventually(lambda old=old: agent() not in (0, old), 2, "a new agent")
        except AssertionError:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        print(f"a new agent after {time.monotonic() - began:.2f} s")
    Path(f"{journal.path}.go").touch()
    end(process, tmp_path)
    run = MlflowDatabase(sqlite_uri).settled(run_id)
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    check(journal.read(), rows)
    check_ledger(run, len(rows))
    assert len(rows) == 200


@pytest.mark.slow
def test_a_forked_child_may_start_runs_of_its_own_beside_the_one_that_it_joined(
    sqlite_uri: str, tmp_path: Path
) -> None:
    said, journal = whole("own_runs", sqlite_uri, tmp_path, 2)
    store = MlflowDatabase(sqlite_uri)
    noted = journal.read()
    main = store.settled(said["run"][0])
    check([p for p in noted if not p.key.startswith("own")], store.rows(main.run_id))
    assert store.count(main.run_id) == 2 * 40 + 20
    for i in range(2):
        for nested in (False, True):
            name = f"own{i}-{nested}"
            own = store.settled(said[name][0])
            check([p for p in noted if p.key.startswith(f"{name}/")], store.rows(own.run_id))
            assert own.status == "FINISHED"
            assert own.tags.get("mlflow.parentRunId") == (main.run_id if nested else None)
    assert len(store.runs()) == 5


@pytest.mark.slow
def test_threads_log_to_the_main_threads_run_and_to_runs_of_their_own(sqlite_uri: str, tmp_path: Path) -> None:
    said, journal = whole("threads", sqlite_uri, tmp_path, 8)
    store = MlflowDatabase(sqlite_uri)
    run, other = store.settled(said["run"][0]), store.settled(said["other"][0])
    rows = store.rows(run.run_id)
    check(journal.read(), rows)
    check_ledger(run, len(rows))
    assert store.count(other.run_id) == 200


@pytest.mark.slow
def test_logging_from_a_signal_handler_and_a_finalizer_in_the_midst_of_logging_neither_hangs_nor_loses_a_row(
    sqlite_uri: str, tmp_path: Path
) -> None:
    said, journal = whole("reenter", sqlite_uri, tmp_path, 8_000)
    calls = [int(word) for word in said["calls"]]
    print("calls (main, signal, del):", calls)
    run = MlflowDatabase(sqlite_uri).settled(said["run"][0])
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    check(journal.read(), rows)
    bad = sum((n + 7) // 8 for n in calls)
    check_ledger(run, len(rows), dropped=bad)
    assert min(calls) > 100, "the fault hardly happened"
