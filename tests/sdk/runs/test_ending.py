"""How a run is waited for and ends: with exact numbers, balanced at any time, and a line on what is left."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from helpers.sdk_tools import Store, eventually, lines, named, said, script, tracking
from tailrace import Ledger, Tracker
from tailrace._runs.run_part import core_of


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
    assert (metric.accepted, metric.delivered, metric.dead, metric.pending) == (2006, 2005, 0, 0)
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
    assert json.loads(store.tags["tailrace.ledger"])["kinds"]["metric"]["delivered"] == 2005


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


AWAY = "http://127.0.0.1:9"


def test_without_a_wait_at_the_end_that_is_said_once_and_no_run_by_itself(
    sqlite_uri: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with tracking(sqlite_uri, quiet=False, end_timeout=0) as sdk:
        for n in range(5):
            with sdk.start_run(run_name=f"trial {n}"):
                sdk.log(step=0, x=1.0)
    handed = [line for line in lines(capsys.readouterr().err) if "end_timeout is 0" in line]
    (line,) = handed
    assert line.endswith("and they are delivered while this program runs; `tailrace status` shows how far")
    assert said(caplog) == []


@pytest.mark.slow
def test_nested_runs_end_without_a_wait_and_are_told_in_one_line_by_their_parent(
    sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracking(sqlite_uri, quiet=False) as sdk:
        with sdk.start_run(run_name="study") as study:
            trials = []
            for n in range(20):
                with sdk.start_run(run_name=f"trial {n}", nested=True, params={"n": n}) as trial:
                    for step in range(50):
                        sdk.log(step=step, loss=1 / (step + 1))
                trials.append(trial)
            with pytest.raises(ValueError, match="diverges"), sdk.start_run(nested=True) as failed:
                raise ValueError("it diverges")
            capsys.readouterr()
            assert study.flush().settled
            assert {trial.status for trial in trials} == {"FINISHED"}
        stored = [Store(sqlite_uri, trial) for trial in trials]  # when the parent's end has returned
        assert {store.status for store in stored} == {"FINISHED"}
        assert {len(store.history("loss")) for store in stored} == {50}
        assert {store.tags["mlflow.parentRunId"] for store in stored} == {study.run_id}
        assert Store(sqlite_uri, failed).status == "FAILED"
    said = lines(capsys.readouterr().err)
    assert [line for line in said if "trial" in line] == []
    assert "21 nested runs (1 FAILED, 20 FINISHED): 1,000 points delivered" in said
    assert len([line for line in said if "more at most" not in line]) <= 4


def test_a_nested_run_that_is_waited_for_has_one_line(sqlite_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking(sqlite_uri, quiet=False) as sdk, sdk.start_run():
        capsys.readouterr()
        nested = sdk.start_run(run_name="below", nested=True)
        sdk.log(step=0, x=1.0)
        nested.end(timeout=30)
        assert lines(capsys.readouterr().err) == [
            "run 'below': x 1; 1 point delivered in 1 request; nothing lost",
        ]


def test_what_is_left_of_nested_runs_is_part_of_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    with tracking(AWAY, end_timeout=1.2, exit_timeout=0, linger=0, on_error="warn") as sdk, sdk.start_run():
        for _ in range(3):
            with sdk.start_run(nested=True):
                sdk.log(step=0, x=1.0)
    assert "3 of 3 nested runs (0 of 3 points so far) and the run's end not delivered after 1." in caplog.text


_KILLED_AGENT = """
    import os, signal, time
    import tailrace as sdk
    from tailrace_agent.ipc import status
    from tailrace_agent.ipc.status import AgentStatus

    run = sdk.start_run(run_name="killed-agent")
    sdk.log({"val/loss": 0.125, "once": 7.0, "gap": 9.0}, step=0)
    for step in range(1, 100):
        sdk.log({"val/loss": 1.0 + step}, step=step)
    run.flush()
    file = run._core.connection.session.shared / "agent.status"
    first = status.read(file, AgentStatus).pid
    os.kill(first, signal.SIGKILL)
    while status.read(file, AgentStatus).pid == first:
        time.sleep(0.02)
    sdk.define_metric("gap", summary="max")
    for step in range(100, 110):
        sdk.log({"val/loss": 1000.0, "gap": 1.0}, step=step)
    run.end()
"""


@pytest.mark.slow
def test_best_values_and_courses_are_of_the_whole_run_also_where_its_agent_was_killed(
    sqlite_uri: str, tmp_path: Path
) -> None:
    done = script(tmp_path, _KILLED_AGENT, TAILRACE_TRACKING_URI=sqlite_uri, TAILRACE_BEST_METRICS="1")
    store = named(sqlite_uri, "killed-agent")
    assert store.status == "FINISHED"
    assert {key: value for key, value in store.run.data.metrics.items() if "best" in key} == {
        "val/loss.best": 0.125,
        "val/loss.best_step": 0.0,
        "gap.best": 9.0,
        "gap.best_step": 0.0,
    }
    lines = {line.split()[1]: line for line in done.stderr.splitlines() if " best " in line or "once" in line}
    assert "1000  best 0.125 at step 0  ▁" in lines["val/loss"], done.stderr
    assert "7" in lines["once"]
