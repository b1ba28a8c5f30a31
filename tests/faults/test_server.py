"""Faults 7, 8, 9 and 11: the server is away, sick, or says no. Over HTTP, through a proxy, to a real MLflow server."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path

import pytest

import tailrace
from faults.oracle import Journal, StoredRun, check, check_ledger, eventually
from faults.proxy import Action, Answer, BlackHole, Drip, Forward, LoseAnswer, Proxy, Request, Reset, on
from faults.server import Server, log_noted, tracked
from tailrace._runs.run_part import core_of


@pytest.fixture(scope="module")
def server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("faulty"), sqlite_template)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@contextmanager
def under_way(proxy: Proxy, journal: Journal) -> Iterator[tailrace.Run]:
    """A run of which the server has the first ten steps."""
    with tracked(proxy.url) as tracker:
        run = tracker.start_run()
        log_noted(run, journal, range(10))
        assert run.flush(20).settled
        yield run


def _check(server: Server, run: tailrace.Run, journal: Journal, *, dead: int = 0, dropped: int = 0) -> StoredRun:
    """The oracle, for a run that was ended."""
    stored = server.store.settled(run.id)
    rows = server.store.rows(stored.run_id)
    check(journal.read(), rows)
    check_ledger(stored, len(rows), dead=dead, dropped=dropped)
    return stored


FAULTS: dict[str, Action | None] = {
    "refuses connections": None,
    "is a black hole": BlackHole(),
    "resets connections": Reset(),
    "answers 500": Answer(500),
    "answers 503": Answer(503),
    "drips its answers": Drip(100),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_and_one_probe_at_a_time_is_sent_while_the_server(
    fault: str, server: Server, proxy: Proxy, journal: Journal, tmp_path: Path
) -> None:
    action = FAULTS[fault]
    with tracked(proxy.url, request_timeout=0.7) as tracker:
        run = tracker.start_run()
        log_noted(run, journal, range(50))
        assert run.flush(20).settled
        with proxy.faulty(action or Forward()) as seen:
            if action is None:
                proxy.down()
            log_noted(run, journal, range(50, 100))
            run.log_text("kept", "notes.txt")
            # Long enough for a request of each thread to have failed, and for probes after that.
            eventually(lambda: len(seen) > 1 or ((s := core_of(run).status()) and s.problem), 5, "the fault is met")
            noticed = len(seen)
            time.sleep(2.5 if isinstance(action, BlackHole) else 1)
            probes = seen[noticed:]
            if action is None:
                proxy.up()
        log_noted(run, journal, range(100, 150))
        began = time.monotonic()
        assert run.flush(20).settled
        back = time.monotonic() - began
        run.end()
    stored = _check(server, run, journal)
    assert stored.status == "FINISHED"
    print(f"{fault}: {len(seen)} requests meanwhile, {len(probes)} probes, settled {back:.2f} s after")
    assert back < 5
    assert action is None or seen, "the fault never happened"
    overlapping = sum(1 for a, b in pairwise(probes) if a.until is not None and b.at < a.until - 0.001)
    assert not overlapping, f"{overlapping} probes were sent while another was under way: {probes}"


@pytest.mark.slow
def test_what_a_server_asks_for_with_retry_after_is_kept_by_metrics_and_artifacts_alike(
    server: Server, proxy: Proxy, journal: Journal
) -> None:
    with under_way(proxy, journal) as run:
        with proxy.faulty(Answer(429, (("Retry-After", "1"),))) as seen:
            log_noted(run, journal, range(10, 20))
            eventually(lambda: seen, 5, "the first 429")
            run.log_text("kept", "notes.txt")
            log_noted(run, journal, range(20, 30))
            time.sleep(2.5)
        assert run.flush(20).settled
        run.end()
    _check(server, run, journal)
    first = seen[0].at
    print([f"{s.at - first:.2f} {s.endpoint}" for s in seen])
    assert len(seen) >= 2
    assert all(b.at - a.at >= 1 for a, b in pairwise(seen)), "asked again before its time"


@pytest.mark.slow
@pytest.mark.parametrize("offset", [-3600, 3600], ids=["an hour behind", "an hour ahead"])
def test_a_retry_after_that_is_a_date_is_read_by_the_clock_of_the_server_that_is(
    offset: int, server: Server, proxy: Proxy, journal: Journal
) -> None:
    """…since either clock may be wrong: the wait is a second, neither an hour nor none."""
    now = time.time() + offset
    headers = (("Date", formatdate(now, usegmt=True)), ("Retry-After", formatdate(now + 1, usegmt=True)))
    with tracked(proxy.url) as tracker:
        run = tracker.start_run()
        assert run.run_id
        with proxy.faulty(on("log-batch", Answer(503, headers), times=1)) as seen:
            log_noted(run, journal, range(10))
            assert run.flush(10).settled
        run.end()
    _check(server, run, journal)
    assert seen[0].answered == 503
    assert 1 <= seen[1].at - seen[0].at < 3


@pytest.mark.slow
def test_a_run_started_while_the_server_is_away_is_created_once_when_it_comes(
    server: Server, proxy: Proxy, journal: Journal
) -> None:
    proxy.down()
    with tracked(proxy.url, experiment_name="away at first") as tracker:
        began = time.monotonic()
        run = tracker.start_run()
        took = time.monotonic() - began
        log_noted(run, journal, range(100))
        time.sleep(0.5)
        proxy.up()
        assert run.flush(20).settled
        run.end()
    _check(server, run, journal)
    assert took < 0.5
    assert len(server.store.runs("away at first")) == 1


# -- fault 8 -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("silently", [False, True], ids=["reset", "silence"])
def test_a_batch_whose_answer_is_lost_after_the_commit_is_stored_once(
    silently: bool, server: Server, proxy: Proxy, journal: Journal
) -> None:
    with tracked(proxy.url) as tracker:
        run = tracker.start_run()
        assert run.run_id
        with proxy.faulty(on("log-batch", LoseAnswer(silently), times=2)) as seen:
            log_noted(run, journal, range(200))
            for step, value in enumerate((math.nan, math.inf, -math.inf, -0.0, 5e-324)):
                log_noted(run, journal, range(step, step + 1), odd=value)
            run.log_params({"lr": 0.1})
            run.set_tag("kind", "lossy")
            assert run.flush(20).settled
        run.end()
    stored = _check(server, run, journal)
    assert server.store.count(stored.run_id) == 205
    assert stored.params == {"lr": "0.1"}
    assert stored.tags["kind"] == "lossy"
    assert [s.action for s in seen if s.endpoint == "log-batch"].count("LoseAnswer") == 2


@pytest.mark.slow
def test_the_end_waits_until_the_ledger_is_stored_though_the_first_try_fails(
    server: Server, proxy: Proxy, journal: Journal
) -> None:
    with under_way(proxy, journal) as run:
        proxy.rule = on("log-batch", Answer(503), times=1)
        run.end()
    _check(server, run, journal)
    assert [s.answered for s in proxy.seen if s.endpoint == "log-batch"][-2:] == [503, 200]


@pytest.mark.slow
def test_a_run_whose_creation_was_committed_without_an_answer_leaves_no_ghost(
    server: Server, proxy: Proxy, journal: Journal
) -> None:
    with tracked(proxy.url, experiment_name="no ghost") as tracker:
        with proxy.faulty(on("create", LoseAnswer(), times=3)) as seen:  # the experiment's, and the run's
            run = tracker.start_run(run_name="once")
            log_noted(run, journal, range(10))
            assert run.flush(20).settled
        run.end()
    _check(server, run, journal)
    assert [s.action for s in seen if s.endpoint == "create"] == ["LoseAnswer", "LoseAnswer"]
    assert [r.status for r in server.store.runs("no ghost")] == ["FINISHED"]


@pytest.mark.slow
def test_a_run_that_is_created_late_though_its_client_had_given_up_does_not_stay_beside_the_other(
    server: Server, proxy: Proxy, journal: Journal
) -> None:
    with tracked(proxy.url, experiment_name="late twin", request_timeout=0.5) as tracker:
        assert tracker.start_run().run_id  # the experiment is there
        tracker.end_run()

        first = threading.Event()

        def rule(request: Request) -> Action | None:
            if request.path.endswith("runs/create") and not first.is_set():
                first.set()
                return Forward(after_s=2)
            return None

        with proxy.faulty(rule):
            run = tracker.start_run(run_name="twin")
            log_noted(run, journal, range(10))
            assert run.flush(20).settled
        eventually(lambda: len(server.store.runs("late twin")) == 3, 5, "the late one is created")
        run.end()
    _check(server, run, journal)
    left = [r for r in server.store.runs("late twin") if not r.deleted]
    assert [r.status for r in left] == ["FINISHED", "FINISHED"]


# -- fault 9 -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_poison_becomes_one_dead_letter_each_and_its_neighbours_arrive_within_two_seconds(
    server: Server, proxy: Proxy, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    with tracked(proxy.url) as tracker:
        run = tracker.start_run(params={"lr": 0.1})
        assert run.flush(20).settled
        before = len(proxy.seen)
        log_noted(run, journal, range(100))
        logged = time.time_ns()
        run.log({"loss(train)": 1.0}, step=0)
        journal.note(0, {"loss__train": 1.0}, logged, time.time_ns())
        log_noted(run, journal, range(100, 200))
        run.log_params({"lr": 0.2, "depth": 3})
        run.log_params({"bad(param)": 1, "width": 4})
        run.set_tags({"bad(tag)": "1", "good": "tag"})
        run.log_params({"long": "x" * 7000})
        began = time.monotonic()
        ledger = run.flush(20)
        took = time.monotonic() - began
        requests = len(proxy.seen) - before
        run.end()
    stored = _check(server, run, journal, dead=1)
    print(f"neighbours after {took:.2f} s, in {requests} requests")
    assert ledger.settled
    assert took < 2
    assert {kind: ledger.of(kind).dead for kind in ("metric", "param", "tag")} == {"metric": 0, "param": 1, "tag": 0}
    assert stored.params.keys() == {"lr", "depth", "width", "long", "bad__param"}
    assert stored.params["lr"] == "0.1"
    assert stored.params["long"].startswith("xxx")
    assert len(stored.params["long"]) <= 6000
    assert (stored.tags["good"], stored.tags["bad__tag"]) == ("tag", "1")
    assert stored.tags["tailrace.name.loss__train"] == "loss(train)"
    for word in ("'lr'", "'bad(param)' for a name"):
        assert word in caplog.text, word


@pytest.mark.slow
def test_a_body_too_large_for_a_gateway_goes_in_smaller_ones_and_what_stays_too_large_is_a_dead_letter(
    server: Server, proxy: Proxy, journal: Journal
) -> None:
    def small(request: Request) -> Action | None:
        return Answer(413, body=b"too large") if len(request.body) > 5_000 else None

    with tracked(proxy.url) as tracker:
        run = tracker.start_run()
        assert run.run_id
        with proxy.faulty(small) as seen:
            log_noted(run, journal, range(1000))
            run.log_params({"big": "y" * 5_900, "small": "z"})
            assert run.flush(20).settled
        run.end()
    stored = _check(server, run, journal, dead=1)
    assert stored.params == {"small": "z"}
    assert sum(s.answered == 413 for s in seen) >= 3, "the fault never happened"


@pytest.mark.slow
def test_a_call_in_which_every_param_is_changed_does_not_block_the_run(
    server: Server, proxy: Proxy, journal: Journal
) -> None:
    with tracked(proxy.url) as tracker:
        run = tracker.start_run(params={f"p{i}": i for i in range(60)})
        assert run.flush(20).settled
        run.log_params({f"p{i}": -i - 1 for i in range(60)})
        log_noted(run, journal, range(100))
        assert run.flush(15).settled
        run.end()
    stored = _check(server, run, journal, dead=60)
    assert stored.params == {f"p{i}": str(i) for i in range(60)}


# -- fault 11 ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [1.0])
def test_end_run_returns_within_its_timeout_and_says_what_is_left_when_the_server_hangs(
    timeout: float, server: Server, proxy: Proxy, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    with tracked(proxy.url, exit_timeout=0.5) as tracker:
        run = tracker.start_run()
        assert run.run_id
        with proxy.faulty(BlackHole()):
            log_noted(run, journal, range(100))
            run.log_text("kept", "notes.txt")  # this server wants artifacts on this machine: it arrives without it
            run.log_params({"lr": 1})
            eventually(lambda: run.ledger().of("metric").accepted == 100, 5, "the agent has the points")
            began = time.monotonic()
            tracker.end_run(timeout=timeout)
            took = time.monotonic() - began
            lines = [r.getMessage() for r in caplog.records if "not delivered" in r.getMessage()]
        print(f"end_run({timeout}) took {took:.3f} s: {lines}")
        assert timeout <= took <= timeout + 0.25
        assert len(lines) == 1
        assert "100 points" in lines[0]
        assert "1 param" in lines[0]
        stored = _check(server, run, journal)
    assert stored.status == "FINISHED"


# -- last, since it changes the server ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_killed_in_mid_batch_and_started_again_gets_everything_once(
    server: Server, proxy: Proxy, journal: Journal
) -> None:
    killed: list[float] = []

    def kill() -> None:
        server.kill()
        killed.append(time.monotonic())

    with tracked(proxy.url) as tracker:
        run = tracker.start_run()
        log_noted(run, journal, range(100))
        assert run.flush(20).settled
        with proxy.faulty(on("log-batch", Forward(meanwhile=kill), times=1)) as seen:
            log_noted(run, journal, range(100, 1000))
            eventually(lambda: killed, 5, "the server was killed")
            server.start()
            log_noted(run, journal, range(1000, 1100))
            assert run.flush(20).settled
        run.end()
    _check(server, run, journal)
    assert seen[0].answered is None, "the kill came too late"
