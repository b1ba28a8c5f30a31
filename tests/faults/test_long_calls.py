"""Real agents, with MLflow and a real store, that die at the n-th system call: `make test-faults`.

`FAULTS_SYSCALLS` (100) is the number of kills; an agent starts in seconds, so 1,000 take about an hour. Every call of a
small run, in a process that starts at once, is in tests/faults/test_calls.py.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from faults.calls.library import library
from faults.calls.struck import FAIL, KILL, TORN, fell
from faults.oracle import MlflowDatabase, check, check_ledger, eventually
from faults.program import Program

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("FAULTS_SYSCALLS", "100"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))
_IN_A_ROW = 10
"""Kills that one program suffers."""
_SPOKEN = 12
"""Calls after which an agent has said its first word; two that have not are not replaced by a third process."""
_LAST = 700
_FAULTS = (errno.ENOSPC, errno.EIO, errno.EINTR)


def _agents_struck(folder: Path, uri: str, deaths: list[int], rng: random.Random) -> Counter[str]:
    """One program whose agents die one after the other; each has met a refusal before. Where they fell."""
    state, plan, log = folder / "state", folder / "plan", folder / "calls"
    folder.mkdir(parents=True)
    plan.write_text("".join(f"{at} {rng.choice((KILL, TORN))} 0 1\n" for at in deaths))
    store = uri.removeprefix("sqlite:///")
    environ = {
        "LD_PRELOAD": str(library()),
        "CALLS_WHO": "tailrace_agent.hosts.process",
        "CALLS_ROOTS": f"{state}:/dev/shm/tailrace-:{store}",
        "CALLS_PLAN": str(plan),
        "CALLS_LOG": str(log),
    }
    with Program(folder / "program", uri, state, environ=environ, pause=0.005, no_pauses=True) as program:
        eventually(Path(f"{plan}.{len(deaths)}").exists, 60.0 + 30 * len(deaths), "the last agent has begun", pause=0.2)
        program.finish(120)
        run = program.settled(120)
    rows = MlflowDatabase(uri).rows(run.run_id)
    check(program.journal.read(), rows)
    check_ledger(run, len(rows))
    assert run.status == "FINISHED"
    struck = fell(log)
    assert struck.total() == len(deaths), f"{struck.total()} of {len(deaths)} agents were struck"
    return struck


def test_agents_killed_at_the_nth_system_call_lose_and_double_nothing(sqlite_uri: str, tmp_path: Path) -> None:
    rng, struck = random.Random(SEED), Counter[str]()
    width = (_LAST - _SPOKEN) / max(1, KILLS)
    deaths = [_SPOKEN + int((n + rng.random()) * width) for n in range(KILLS)]
    rng.shuffle(deaths)
    for first in range(0, KILLS, _IN_A_ROW):
        row = deaths[first : first + _IN_A_ROW]
        row[0] = rng.randint(1, _SPOKEN)
        struck += _agents_struck(tmp_path / str(first), sqlite_uri, row, rng)
    print(f"{struck.total()} kills fell in: {dict(struck.most_common())}")
    files = {place.split(" ", 1)[1] for place in struck}
    wanted = {"spool.db-wal", "status"}
    assert KILLS < 50 or files >= wanted, f"vacuous: nothing fell on {wanted - files}"


def test_agents_whose_system_calls_fail_lose_and_double_nothing(sqlite_uri: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    for n in range(max(1, KILLS // 20)):
        folder = tmp_path / str(n)
        folder.mkdir()
        at, number, times = rng.randint(_SPOKEN, 300), _FAULTS[n % len(_FAULTS)], rng.choice((1, 5, 40))
        plan = folder / "plan"
        plan.write_text(f"{at} {FAIL} {number} {times}\n")
        state = folder / "state"
        environ = {
            "LD_PRELOAD": str(library()),
            "CALLS_WHO": "tailrace_agent.hosts.process",
            "CALLS_ROOTS": f"{state}:/dev/shm/tailrace-",
            "CALLS_PLAN": str(plan),
            "CALLS_LOG": str(folder / "calls"),
        }
        with Program(folder / "program", sqlite_uri, state, environ=environ, pause=0.005) as program:
            eventually(lambda log=folder / "calls": fell(log).total() >= 1, 60, "a call has failed", pause=0.2)
            program.finish(120)
            run = program.settled(120)
        rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
        check(program.journal.read(), rows)
        check_ledger(run, len(rows))
