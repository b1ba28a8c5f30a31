"""Sessions as the command line finds them: left by a crash, held by an agent, finished."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import msgspec

from tailrace_agent.cli._letters import collect, put_back
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc import status
from tailrace_agent.ipc.finished import mark_finished
from tailrace_agent.ipc.records import RunSpec, encode
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus, RunStatus
from tailrace_agent.ledger import Counts, Ledger
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.spool.blocks import DEVICE, NewBlock, Outcome
from tailrace_agent.spool.store import Spool

__all__ = ["CLOSED", "crash", "finished_session", "leave_again", "live_session", "metric_letter", "spooled_session"]

# Logs 300 steps and is killed, with nobody there who would deliver any of it: as after a crash of trainer and agent.
_CRASH = """
import os, sys
import tailrace as sdk
from tailrace._session.agent_keeper import Keeper
Keeper.start = lambda self: None
sdk.start_run(run_name=sys.argv[2], tracking_uri=sys.argv[1], quiet=True)
sdk.log_params({"lr": 0.1})
for step in range(300):
    sdk.log({"loss": 1 / (step + 1)}, step=step)
sdk.log_params({"lr": 0.2})  # which MLflow refuses
os.kill(os.getpid(), 9)
"""
CLOSED = "http://127.0.0.1:9"


def crash(uri: str, name: str = "crashed") -> Session:
    """Runs a program that logs and is killed; its session."""
    done = subprocess.run([sys.executable, "-c", _CRASH, uri, name], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    return max(Session.all(load_settings()), key=lambda session: session.info.created)  # two may be of one second


def live_session(pending: int = 3) -> Session:
    """A session as it looks while an agent (this test) holds it."""
    session = Session.create(load_settings(), cwd="/", program="train.py")
    ledger = Ledger(kinds={"metric": Counts(accepted=7 + pending, delivered=7)})
    run = RunStatus(run=42, run_name="r", ledger=ledger, problem="waiting for rain" if pending else None)
    status.write(session.shared / status.run_file(42), run)
    now = time.time()
    status.write(session.shared / "agent.status", AgentStatus(pid=1, host="thread", started=now, seen=now))
    return session


def leave_again(session: Session, rename: dict[str, str] | None = None) -> None:
    """Makes a session a leftover again: its dead letters are on the way, and nobody delivers them."""
    put_back(session, collect(load_settings(), None)[0], rename or {})


def metric_letter(key: str, value: float = 0.5, step: int = 3, *, run: int = 7) -> tuple[str, int, bytes, str]:
    """A metric that MLflow has refused, as `spooled_session` takes it."""
    return key, 1, encode([(run, step, 1_000, {key: value})]), "a bad name"


def spooled_session(
    *,
    program: str = "train.py",
    letters: Sequence[tuple[str, int, bytes, str]] = (),
    blocks: Sequence[NewBlock] = (),
    uri: str = CLOSED,
    finalized: bool = False,
    run_name: str = "r",
) -> Session:
    """A session without program and agent: its run 7, dead letters of its metrics, and blocks that wait."""
    session = Session.create(load_settings(), cwd="/", program=program)
    spec = RunSpec(run=7, start_time=1_000, cwd="/", tracking_uri=uri, run_name=run_name)
    state = RunState(spec=spec, ring="r", finalized=finalized)
    spool = Spool(session.dir / "spool.db")
    refused = sum(n for _, n, _, _ in letters)
    tallies = [(run, "metric" if kind == DEVICE else kind, "accepted", n) for run, kind, n, _, _ in blocks]
    tallies.append((7, "metric", "accepted", refused))
    spool.ingest(blocks, tallies, [(7, msgspec.json.encode(state))])
    spool.settle(Outcome(7, "metric", [], 0, dead=letters))
    spool.close()
    return session


def finished_session(program: str = "done.py", *, dead: int = 0, age: float = 0.0) -> Session:
    """A session in which nothing is left, finished so many seconds ago."""
    session = spooled_session(program=program, finalized=True)
    mark_finished(session, runs=1, dead=dead, at=time.time() - age)
    session.remove_shared()
    return session
