"""Faults 1, 2 and 3: the trainer, the agent, or both are killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from faults.oracle import MlflowDatabase, check, check_ledger, eventually
from faults.program import STAGES, Program
from faults.trainer import value_of


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.mark.slow
def test_a_killed_trainer_loses_nothing_and_its_run_is_killed_within_five_seconds(
    sqlite_uri: str, state: Path, tmp_path: Path
) -> None:
    store = MlflowDatabase(sqlite_uri)
    with Program(tmp_path / "a", sqlite_uri, state, pause=0.001) as program:
        run = eventually(lambda: (r := program.stored()) and store.count(r.run_id) and r, 30, "rows arrive")
        assert run.status == "RUNNING"
        program.hurry()
        time.sleep(random.uniform(0.001, 0.01))  # a small backlog: a machine delivers some thousand points a second
        print("fell in", program.kill())
        killed = time.monotonic()
        eventually(lambda: (r := program.stored()) and r.status == "KILLED", 5, "the run is KILLED")
        print(f"KILLED after {time.monotonic() - killed:.2f} s")
        run = program.settled()
        noted, rows = program.journal.read(), store.rows(run.run_id)
    assert len(noted) > 1000
    check(noted, rows, cut_short=1, expected=value_of)
    check_ledger(run, len(rows))
    assert "disappeared without ending the run" in run.tags["tailrace.end_reason"]


@contextmanager
def _locked(sqlite_uri: str) -> Iterator[None]:
    """Nobody else can write to the database."""
    connection = sqlite3.connect(sqlite_uri.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


@pytest.mark.slow
def test_when_a_run_is_shown_as_killed_everything_that_it_logged_is_there_and_why_was_said_long_before(
    sqlite_uri: str, state: Path, tmp_path: Path
) -> None:
    store = MlflowDatabase(sqlite_uri)
    with Program(tmp_path / "a", sqlite_uri, state, keys=2, pause=0.001) as program:
        run = eventually(lambda: (r := program.stored()) and store.count(r.run_id) and r, 30, "rows arrive")
        with _locked(sqlite_uri):  # else all is delivered before anybody knows that the process is gone
            program.hurry()
            eventually(lambda: len(program.journal.read()) > 8_000, 30, "a backlog", pause=0.005)
            program.kill()
            noted = program.journal.read()
            log = program.session.dir / "agent.log"
            eventually(lambda: "run killed" in log.read_text(), 20, "the agent knows that the process is gone")
        explained_at = 0
        while run.status == "RUNNING":
            count = store.count(run.run_id)
            run = program.stored() or run
            if "tailrace.end_reason" in run.tags and not explained_at:
                explained_at = count
            time.sleep(0.01)
        rows = store.rows(run.run_id)
    print(f"{len(noted)} points, {explained_at} of them there when it was said that the process is gone")
    assert run.status == "KILLED"
    check(noted, rows, cut_short=1, expected=value_of)
    assert explained_at < len(noted), "there was no backlog"
    check_ledger(run, len(rows))


@pytest.mark.slow
def test_an_agent_whose_state_was_deleted_ends_when_its_program_is_gone(state: Path, tmp_path: Path) -> None:
    with Program(tmp_path / "a", "http://127.0.0.1:9", state, pause=0.01) as program:
        agent = program.agent_pid()
        while state.exists():  # its database deletes a journal of its own meanwhile
            shutil.rmtree(state, ignore_errors=True)
        program.kill()
        eventually(lambda: not psutil.pid_exists(agent), 15, "the agent is gone")


@pytest.mark.slow
def test_an_agent_killed_in_the_write_the_commit_the_send_and_the_ack_loses_and_doubles_nothing(
    sqlite_uri: str, state: Path, tmp_path: Path
) -> None:
    store = MlflowDatabase(sqlite_uri)
    with Program(tmp_path / "a", sqlite_uri, state, pause=0.002, no_pauses=True) as program:
        for stage in STAGES:
            pid = program.agent_pid()
            fell = program.kill_agent(stage, hold=stage != "send")
            killed = time.monotonic()
            program.agent_pid(besides=pid, timeout=2)
            print(f"{stage}: fell in {fell}, a new agent after {time.monotonic() - killed:.2f} s")
            assert stage in fell.split("+")
        program.finish()
        run = program.settled()
    rows = store.rows(run.run_id)
    check(program.journal.read(), rows)
    check_ledger(run, len(rows))
    assert run.status == "FINISHED"


@pytest.mark.slow
def test_what_a_killed_trainer_and_its_killed_agent_leave_behind_is_delivered_by_the_next_start(
    sqlite_uri: str, state: Path, tmp_path: Path
) -> None:
    store = MlflowDatabase(sqlite_uri)
    with Program(tmp_path / "a", sqlite_uri, state, pause=0.001) as victim:
        time.sleep(0.5)
        victim.await_agent("commit", hold=True)  # the spool has the rows, and the ring does not know
        victim.freeze()
        assert "commit" in victim.kill_agent()
        victim.kill()
        session = victim.session
        assert session.rings(), "nothing was left behind"
        with Program(tmp_path / "b", sqlite_uri, state, steps=100) as later:
            run = victim.settled(40)
            fresh = later.settled()
            later.finish()
        eventually((session.dir / "finished").exists, 10, "the session is finished")
        eventually(lambda: not session.shared.exists(), 10, "its shared memory is given back")
    assert run.status == "KILLED"
    rows = store.rows(run.run_id)
    check(victim.journal.read(), rows, cut_short=1, expected=value_of)
    check_ledger(run, len(rows))
    assert fresh.status == "FINISHED"
    assert store.count(fresh.run_id) == 300


@pytest.mark.slow
def test_an_agent_that_stands_still_and_is_then_killed_costs_nothing_though_the_ring_was_full_long_ago(
    sqlite_uri: str, state: Path, tmp_path: Path
) -> None:
    store = MlflowDatabase(sqlite_uri)
    settings = {"ring_bytes": 65536}
    with Program(tmp_path / "a", sqlite_uri, state, pause=0.0001, keys=1, settings=settings) as program:
        stuck = program.agent_pid()
        os.kill(stuck, signal.SIGSTOP)
        (ring,) = program.session.rings()
        spill = program.session.spill_path(ring)
        eventually(lambda: spill.exists() and spill.stat().st_size > 100_000, 20, "the ring overflows")
        os.kill(stuck, signal.SIGCONT)
        time.sleep(0.1)
        os.kill(stuck, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(stuck, signal.SIGKILL)
        program.agent_pid(besides=stuck, timeout=2)
        program.finish()
        run = program.settled()
    rows = store.rows(run.run_id)
    check(program.journal.read(), rows)
    check_ledger(run, len(rows))


@pytest.mark.faults
def test_what_a_killed_trainer_with_an_agent_in_its_own_threads_leaves_behind_is_delivered_by_the_next_start(
    sqlite_uri: str, state: Path, tmp_path: Path
) -> None:
    store = MlflowDatabase(sqlite_uri)
    settings = {"agent": "thread"}
    with Program(tmp_path / "a", sqlite_uri, state, pause=0.001, settings=settings) as victim:
        eventually(lambda: (r := victim.stored()) and store.count(r.run_id), 30, "rows arrive")
        victim.kill()
        with Program(tmp_path / "b", sqlite_uri, state, steps=10) as later:
            run = victim.settled(40)
            later.finish()
    rows = store.rows(run.run_id)
    check(victim.journal.read(), rows, cut_short=1, expected=value_of)
    check_ledger(run, len(rows))
    assert run.status == "KILLED"
