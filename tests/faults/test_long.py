"""The faults at length, unattended: `make test-faults`. Each round says a line, and the end says where the kills fell.

`FAULTS_KILLS` (50), `FAULTS_SECONDS` (600) of sick servers, `FAULTS_ANSWERS` (100) lost, `FAULTS_CHILDREN` (64) make it
shorter or longer. Each round's random choices follow from `FAULTS_SEED`.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.families import whole
from faults.oracle import Journal, MlflowDatabase, check, check_ledger, eventually
from faults.program import STAGES, Program
from faults.proxy import Action, Answer, BlackHole, Drip, Forward, LoseAnswer, Proxy, Request, Reset
from faults.server import Server, log_noted, tracked
from faults.trainer import value_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("FAULTS_KILLS", "50"))
SECONDS = float(os.environ.get("FAULTS_SECONDS", "600"))
ANSWERS = int(os.environ.get("FAULTS_ANSWERS", "100"))
CHILDREN = int(os.environ.get("FAULTS_CHILDREN", "64"))
SEED = int(os.environ.get("FAULTS_SEED", str(random.randrange(10**6))))

Tell = Callable[[str], None]
FELL: dict[str, Counter[str]] = {}
_GONE = "tailrace.end_reason"


def _say(config: pytest.Config, text: str) -> None:
    """A line at once, though what tests print is captured."""
    with config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(text, flush=True)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Says how far the test is."""
    _say(request.config, "")
    return lambda text: _say(request.config, f"{time.strftime('%H:%M:%S')}  {text}")


@pytest.fixture(scope="module", autouse=True)
def _summary(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    _say(request.config, f"\n\nwhere the kills fell (FAULTS_SEED={SEED})")
    for what, fell in FELL.items():
        _say(request.config, f"  {what}: {fell.total()} kills: {dict(fell.most_common())}")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")


def _enough(what: str, fell: Counter[str], stages: tuple[str, ...], share: float) -> None:
    """A run in which hardly a kill struck where it hurts has shown nothing."""
    FELL[what] = fell
    struck = Counter({stage: sum(n for where, n in fell.items() if stage in where.split("+")) for stage in stages})
    least = int(share * KILLS)
    short = {stage: struck[stage] for stage in stages if struck[stage] < least}
    assert not short, f"vacuous: fewer than {least} of {KILLS} kills fell in {short}"


def test_trainers_killed_at_random_lose_nothing(
    sqlite_uri: str, tmp_path: Path, rng: random.Random, tell: Tell
) -> None:
    store, fell, slowest = MlflowDatabase(sqlite_uri), Counter[str](), 0.0
    for n in range(KILLS):
        plan: dict[str, Any] = {"pause": 0.001, "prefix": f"t{n}", "keys": 12}  # twelve: so that kills fall in `log()`
        with Program(tmp_path / str(n), sqlite_uri, tmp_path / "state", **plan) as program:
            warm = rng.random() < 0.7
            if warm:
                eventually(lambda p=program: (r := p.stored()) and store.count(r.run_id), 60, "rows arrive")
            else:
                time.sleep(rng.uniform(0, 2))
            if rng.random() < 0.8:
                program.hurry()
            time.sleep(rng.uniform(0, 0.03))
            fell[program.kill()] += 1
            killed = time.monotonic()
            took = math.nan
            noted = program.journal.read()
            if warm:
                eventually(lambda p=program: (r := p.stored()) and _GONE in r.tags, 5, "MLflow shows that it is gone")
                slowest = max(slowest, time.monotonic() - killed)
                eventually(lambda p=program: (r := p.stored()) and r.status == "KILLED", 120, "the run is KILLED")
                took = time.monotonic() - killed
                assert store.count(program.stored().run_id) >= len(noted), "the status is the last write of a run"
            run = program.settled(120)
            rows = store.rows(run.run_id)
        check(noted, rows, cut_short=1, expected=value_of)
        check_ledger(run, len(rows))
        assert run.status == "KILLED"
        tell(f"trainer {n + 1}/{KILLS}: {len(noted)} points, KILLED after {took:.1f} s")
    tell(f"at the slowest, MLflow showed after {slowest:.1f} s that a trainer was gone")
    _enough("trainer", fell, ("log",), 0.1)


def test_agents_killed_at_random_lose_and_double_nothing(
    sqlite_uri: str, tmp_path: Path, rng: random.Random, tell: Tell
) -> None:
    store, fell, slowest = MlflowDatabase(sqlite_uri), Counter[str](), 0.0
    for first in range(0, KILLS, 10):
        plan: dict[str, Any] = {"pause": 0.002}
        if first % 20:  # a ring so small that a row in two takes the way through the spill file while there is no agent
            plan = {"pause": 0.0003, "keys": 1, "settings": {"ring_bytes": 65536}}
        with Program(tmp_path / str(first), sqlite_uri, tmp_path / "state", no_pauses=True, **plan) as program:
            for n in range(first, min(first + 10, KILLS)):
                stage = rng.choice([*STAGES, None])
                if stage is None:
                    time.sleep(rng.uniform(0, 4))
                old = program.agent_pid()
                fell[where := program.kill_agent(stage, hold=rng.random() < 0.5, timeout=60)] += 1
                killed = time.monotonic()
                program.agent_pid(besides=old, timeout=2)
                took = time.monotonic() - killed
                slowest = max(slowest, took)
                tell(f"agent {n + 1}/{KILLS}: fell in {where}, a new one after {took:.2f} s")
            program.finish(120)
            run = program.settled(120)
        noted, rows = program.journal.read(), store.rows(run.run_id)
        check(noted, rows)
        check_ledger(run, len(rows))
        assert run.status == "FINISHED"
        tell(f"{len(noted)} points through {min(10, KILLS - first)} kills, all there, none twice")
    tell(f"the slowest new agent came after {slowest:.2f} s")
    _enough("agent", fell, tuple(STAGES), 0.08)


def test_what_trainers_and_agents_killed_together_leave_is_delivered_by_later_starts(
    sqlite_uri: str, tmp_path: Path, rng: random.Random, tell: Tell
) -> None:
    store, fell, victims = MlflowDatabase(sqlite_uri), Counter[str](), list[Program]()
    for n in range(KILLS):
        program = Program(tmp_path / str(n), sqlite_uri, tmp_path / "state", pause=0.001, prefix=f"b{n}")
        victims.append(program)
        stage = rng.choice(["write", "commit", "ack", None, None])
        if stage is None:
            time.sleep(rng.uniform(0, 4))
            if rng.random() < 0.5:
                program.hurry()
                time.sleep(rng.uniform(0, 0.02))
        program.await_agent(stage, hold=rng.random() < 0.5)
        program.freeze()
        fell[where := program.kill_agent()] += 1
        program.kill()
        tell(f"both {n + 1}/{KILLS}: the agent's death fell in {where}, {len(program.journal.read())} points")
    with Program(tmp_path / "last", sqlite_uri, tmp_path / "state", pause=0.01) as last:
        for n, victim in enumerate(victims):
            run = victim.settled(600)
            rows = store.rows(run.run_id)
            check(victim.journal.read(), rows, cut_short=1, expected=value_of)
            check_ledger(run, len(rows))
            assert run.status == "KILLED"
            if n % 10 == 9:
                tell(f"{n + 1}/{KILLS} sessions were found again, nothing lost")
        last.finish()
        run = last.settled()
        check(last.journal.read(), store.rows(run.run_id))
    for victim in victims:
        victim.close()
    _enough("both", fell, ("write", "commit"), 0.04)


@pytest.fixture(scope="module")
def server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("faulty"), sqlite_template)
    server.start()
    yield server
    server.kill()


SICK: dict[str, Action | None] = {
    "refused": None,
    "black hole": BlackHole(),
    "reset": Reset(),
    "500": Answer(500),
    "503": Answer(503),
    "429": Answer(429, (("Retry-After", "1"),)),
    "drip": Drip(50),
    "answers lost": LoseAnswer(),
    "restart": None,
}


def test_a_server_that_falls_sick_again_and_again_gets_everything_once(
    server: Server, tmp_path: Path, rng: random.Random, tell: Tell
) -> None:
    end, step, met = time.monotonic() + SECONDS, 0, Counter[str]()
    with Proxy(server.port) as proxy, tracked(proxy.url, end_timeout=120.0) as tracker:
        run = tracker.start_run()
        journals = [Journal(tmp_path / "journal")]

        def work(seconds: float) -> None:
            nonlocal step
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                log_noted(run, journals[0], range(step, step + 10))
                step += 10
                time.sleep(0.02)

        while time.monotonic() < end:
            name = rng.choice([*SICK])
            action = SICK[name]
            before = len(proxy.seen)
            with proxy.faulty(action or Forward()):
                if name == "refused":
                    proxy.down()
                elif name == "restart":
                    server.kill()
                work(rng.uniform(1, 8))
                if name == "refused":
                    proxy.up()
                elif name == "restart":
                    server.start()
            met[name] += len(proxy.seen) - before
            began = time.monotonic()
            work(rng.uniform(0.5, 2))
            settled = run.flush(60)
            tell(
                f"{name}: {len(proxy.seen) - before} requests, "
                f"{step} points accepted, all delivered {time.monotonic() - began:.1f} s after it"
            )
            assert settled.settled, settled
        run.end()
    stored = server.store.settled(run.id)
    rows = server.store.rows(stored.run_id)
    check(journals[0].read(), rows)
    check_ledger(stored, len(rows))
    tell(f"{step} points, {dict(met)} requests under faults")


def test_a_hundred_lost_answers_leave_exact_counts(
    server: Server, tmp_path: Path, rng: random.Random, tell: Tell
) -> None:
    lost = Counter[str]()
    journal = Journal(tmp_path / "journal")

    def rule(request: Request) -> Action | None:
        if lost.total() >= ANSWERS or rng.random() < 0.3 or request.method != "POST":
            return None
        lost[request.endpoint] += 1
        return LoseAnswer(silently=rng.random() < 0.1)

    odd = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308)
    with Proxy(server.port) as proxy, tracked(proxy.url, retry_max_delay=0.1, experiment_name="lost") as tracker:
        runs = []
        with proxy.faulty(rule):
            while lost.total() < ANSWERS:
                run = tracker.start_run()
                runs.append(run)
                for step in range(200):
                    log_noted(run, journal, range(step, step + 1), **{f"r{len(runs)}/x": odd[step % 6] + step // 6})
                run.log_params({"n": len(runs)})
                run.end(timeout=60)
                tell(f"{lost.total()}/{ANSWERS} answers lost: {dict(lost)}")
    noted = journal.read()
    for n, run in enumerate(runs, 1):
        stored = server.store.settled(run.id)
        rows = server.store.rows(stored.run_id)
        assert len(rows) == 200
        check([point for point in noted if point.key == f"r{n}/x"], rows)
        check_ledger(stored, 200)
        assert stored.params == {"n": str(n)}
        assert stored.status == "FINISHED"
    assert len([run for run in server.store.runs("lost") if not run.deleted]) == len(runs), "a ghost"
    assert lost["create"], "no creation was lost"


@pytest.mark.parametrize("what", ["forks", "kinds"])
def test_many_children_join_the_run(what: str, sqlite_uri: str, tmp_path: Path, tell: Tell) -> None:
    count = CHILDREN if what == "forks" else max(1, CHILDREN // 4)
    began = time.monotonic()
    said, journal = whole(what, sqlite_uri, tmp_path, count)
    run = MlflowDatabase(sqlite_uri).settled(said["run"][0], 120)
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    noted = [point for point in journal.read() if not point.key.startswith("hammer")]
    check(noted, [row for row in rows if not row.key.startswith("hammer")])
    check_ledger(run, len(rows))
    tell(f"{what} of {count}: {len(rows)} points in {time.monotonic() - began:.0f} s")


def test_a_hundred_thousand_reentrant_calls(sqlite_uri: str, tmp_path: Path, tell: Tell) -> None:
    said, journal = whole("reenter", sqlite_uri, tmp_path, 1000 * CHILDREN)
    calls = [int(word) for word in said["calls"]]
    run = MlflowDatabase(sqlite_uri).settled(said["run"][0], 120)
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    check(journal.read(), rows)
    check_ledger(run, len(rows), dropped=sum((n + 7) // 8 for n in calls))
    tell(f"calls (main, signal, del): {calls}")


def test_agents_told_to_leave_again_and_again_leave_and_are_replaced(
    sqlite_uri: str, tmp_path: Path, rng: random.Random, tell: Tell
) -> None:
    count = max(1, KILLS // 2)
    with Program(tmp_path / "a", sqlite_uri, tmp_path / "state", pause=0.002, no_pauses=True) as program:
        for n in range(count):
            time.sleep(rng.uniform(0, 1.5))
            old = program.agent_pid()
            os.kill(old, signal.SIGTERM)
            began = time.monotonic()
            program.agent_pid(besides=old, timeout=10)
            tell(f"SIGTERM {n + 1}/{count}: a new agent after {time.monotonic() - began:.2f} s")
        program.finish(120)
        run = program.settled(120)
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    check(program.journal.read(), rows)
    check_ledger(run, len(rows))
