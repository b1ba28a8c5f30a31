"""The ledger that users read: exact after `flush()`, balanced at any time, and stored with the run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.sdk_tools import Store, eventually, tracking
from tailrace import Ledger, Tracker
from tailrace._messages.waiting import until
from tailrace._runs.core import core_of
from tailrace_agent.ipc.status import RunStatus
from tailrace_agent.ledger import Counts


@pytest.fixture
def sdk(sqlite_uri: str) -> Iterator[Tracker]:
    with tracking(sqlite_uri) as tracker:
        yield tracker


def test_flush_returns_exact_and_balanced_numbers(sdk: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    assert sdk.flush() == Ledger()
    (tmp_path / "file.txt").write_text("x")
    with sdk.start_run(params={"a": 1, "b": 2}) as run:
        for step in range(1000):
            sdk.log(step=step, x=step, y=-step)
            if step == 500:
                counts = sdk.flush()
                assert counts.of("metric").delivered == counts.of("metric").accepted == 1002
                assert (counts.calls, counts.settled, counts.balanced) == (501, True, True)
        run.flush()
        for _ in range(3):
            sdk.log_metric("same", 1, step=1, timestamp=1_700_000_000_000)
        sdk.log({"x": "bad", "not (a) name": 1, "good": 1}, step=1)
        sdk.log_param("a", 2)
        sdk.set_tags({"t": 1, "u": 2})
        sdk.log_artifact(tmp_path / "file.txt")
        sdk.log_artifact(tmp_path / "missing.txt")
        ledger = run.flush()
        assert run.ledger() == ledger
        assert sdk.flush() == ledger
    metric, param, tag, artifact = (ledger.of(kind) for kind in ("metric", "param", "tag", "artifact"))
    assert (metric.accepted, metric.delivered, metric.dead, metric.pending) == (2006, 2004, 1, 0)
    assert (metric.dropped, metric.merged) == ({"value is no number": 1}, 2)
    assert (param.accepted, param.delivered, param.dead) == (3, 2, 1)
    assert (tag.accepted, tag.delivered) == (2, 2)
    assert (artifact.accepted, artifact.delivered, sum(artifact.dropped.values())) == (2, 1, 1)
    total = ledger.total
    assert total.accepted == 2013 == total.delivered + total.pending + total.dead + sum(total.dropped.values())
    eventually(lambda: "tailrace.ledger" in Store(sqlite_uri, run).tags)
    store = Store(sqlite_uri, run)
    assert len(store.history("x")) == len(store.history("y")) == 1000
    assert store.history("same") == [(1, 1.0)], "three times the same is one row in MLflow"
    assert json.loads(store.tags["tailrace.ledger"])["kinds"]["metric"]["delivered"] == 2004


def test_a_ledger_is_balanced_and_never_shrinks_while_the_run_lasts(sdk: Tracker) -> None:
    done = threading.Event()

    def train() -> None:
        step = 0
        while not done.is_set():
            sdk.log(step=step, x=step)
            step += 1
            done.wait(0.0005)

    with sdk.start_run() as run:
        trainer = threading.Thread(target=train)
        trainer.start()
        seen = [run.ledger()]
        for _ in range(4):
            seen.append(run.flush())  # ends although more is logged all the time
            seen.append(run.ledger())
        done.set()
        trainer.join()
        seen.append(run.flush())
    assert all(ledger.balanced for ledger in seen)
    accepted = [ledger.accepted for ledger in seen]
    assert accepted == sorted(accepted)
    assert seen[-1].settled
    assert seen[-1].accepted > 10


def test_the_trackers_ledger_is_that_of_all_its_runs(sdk: Tracker) -> None:
    with sdk.start_run():
        sdk.log(x=1)
        with sdk.start_run(nested=True):
            sdk.log(x=1, y=2)
            ledger = sdk.flush()
    assert (ledger.of("metric").delivered, ledger.calls) == (3, 2)


def test_a_wait_that_ended_before_the_agent_had_counted_everything_is_not_settled() -> None:
    def told() -> RunStatus:
        return RunStatus(run=1, ledger=Ledger(kinds={"metric": Counts(accepted=3, delivered=3)}))

    enough = until(told, lambda _: True, timeout=0)
    short = until(told, lambda _: False, timeout=0)
    assert enough is not None
    assert short is not None
    assert (enough.ledger.settled, short.ledger.settled) == (True, False)
    assert not enough.ledger.add(short.ledger).settled


def test_a_flush_before_the_agent_has_said_anything_is_not_settled(
    sdk: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sdk.start_run() as run:
        run.log(loss=0.5)
        with monkeypatch.context() as silent:
            silent.setattr(core_of(run), "status", lambda: None)
            assert not run.flush(0).settled
            assert not sdk.flush(0).settled
        assert run.flush().settled
