"""What a person sees of a run: one line at its start, three at its end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.sdk_tools import eventually, lines, tracking
from tailrace import Counts, Ledger
from tailrace._messages import summary
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.records import End, LogCost, RunSpec, Start
from tailrace_agent.ipc.status import RunStatus


def test_a_run_says_one_line_at_its_start_and_at_its_end_its_metrics_and_three_more(
    sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracking(sqlite_uri, quiet=False) as sdk:
        with sdk.start_run(run_name="base line", experiment_name="seen", params={"lr": 0.1}, tags={"a": "b"}) as run:
            assert lines(capsys.readouterr().err) == [
                f"run 'base line' in experiment 'seen' → {sqlite_uri} (agent: thread)"
            ]
            for step in range(1000):
                sdk.log(step=step, loss=1.0, accuracy=0.5)
            sdk.log_text("text", "text.txt")
            sdk.flush()
            capsys.readouterr()
        loss, accuracy, arrived, cost, where = lines(capsys.readouterr().err)
        assert (loss, accuracy) == (f"loss      1    {'▅' * 24}", f"accuracy  0.5  {'▅' * 24}")
        assert re.fullmatch(r"2,000 points delivered with 1 param, 1 artifact in [234] requests; nothing lost", arrived)
        assert re.fullmatch(
            r"log\(\) cost \d+\.\d µs a call, [\d.e-]+ % of the run's [\d.]+ m?s \(1,000 calls, \d+ of them timed\)",
            cost,
        )
        assert where == f"look at run 'base line' with `tailrace ui --tracking-uri {sqlite_uri}`"

        with sdk.start_run(run_id=run.run_id):
            sdk.log(loss=1)
        first, ended, arrived, cost, _ = lines(capsys.readouterr().err)
        assert first.startswith(f"resuming run {run.run_id} ")
        assert ended == "loss  1"
        assert arrived == "1 point delivered in 1 request; nothing lost"
        assert re.fullmatch(r"1 call of log\(\) in [\d.]+ m?s, too few to time", cost)


def test_starting_a_run_is_no_part_of_what_a_call_cost(sqlite_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking(sqlite_uri, quiet=False) as sdk:
        sdk.log(loss=1.0)  # starts the run
        sdk.end_run()
    assert re.search(r"1 call of log\(\) in [\d.]+ m?s, too few to time", capsys.readouterr().err)


def test_what_was_not_delivered_is_said_in_the_last_lines(sqlite_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking(sqlite_uri, quiet=False) as sdk, sdk.start_run(params={"p": 1}):
        sdk.log({"good": 1, "a (bad) key": 2})
        sdk.log(good=1, text="text")
        sdk.log(good=1, step="first")  # type: ignore[arg-type]
        sdk.log_param("p", 2)
    arrived, _, _ = lines(capsys.readouterr().err)[-3:]
    assert arrived == (
        "3 points delivered with 1 param in 2 requests; 1 refused by MLflow (`tailrace dead list`); "
        "1 dropped: step is no integer; 1 dropped: value is no number"
    )


def test_over_http_the_last_line_is_the_runs_address(mlflow_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking(mlflow_server, quiet=False, experiment_name="printed") as sdk, sdk.start_run() as run:
        sdk.log(x=1)
    assert lines(capsys.readouterr().err)[-1] == f"look at {run.url}"


def test_a_run_without_a_call_of_log_says_so_with_the_likely_cause(
    sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracking(sqlite_uri, quiet=False) as sdk:
        with sdk.start_run(params={"lr": 0.1}):
            pass
        _, no_calls, _ = lines(capsys.readouterr().err)[1:]
        assert no_calls.startswith("log() was not called, and the run has no metrics: were they logged to another run?")
        assert "starts a run of its own" in no_calls


def test_a_run_whose_values_came_from_others_is_not_told_that_nothing_was_logged() -> None:
    nothing, below = RunStatus(run=1), RunStatus(run=1, parent=True)
    assert [line[:24] for line in summary._cost(nothing, LogCost())] == ["log() was not called, an"]
    assert summary._cost(below, LogCost()) == []
    brought = RunStatus(run=1, ledger=Ledger(kinds={"metric": Counts(accepted=1, delivered=1)}))
    assert summary._cost(brought, LogCost()) == []


def test_a_run_that_has_ended_knows_of_runs_below_it_whoever_began_them() -> None:
    book = RunBook({}, lambda _run, _state: None)
    for run, parent in ((1, None), (2, 1)):
        book.start(Start(RunSpec(run=run, start_time=5, cwd="/", owned=True, parent=parent)), f"ring {run}")
        book.end(End(run, "FINISHED", 6, LogCost()))
    assert [book.status(run, Ledger(), 0.0).parent for run in (1, 2)] == [True, False]


def test_what_a_gpu_has_not_computed_is_said_to_end_with_the_program() -> None:
    ledger = Ledger(kinds={"metric": Counts(accepted=3, delivered=1)})
    line = summary.left_line(RunStatus(run=1, ledger=ledger, computing=2), 2.0, in_process=True)
    assert line.startswith(
        "2 points not delivered after 2.0 s (2 of them not computed by a GPU yet: what it has not computed ends with "
        "this program). Nothing else is lost: the agent goes on, "
    )


def test_below_a_tenth_of_a_second_nothing_is_said_of_a_share() -> None:
    status = RunStatus(run=1, ledger=Ledger(calls=1000))
    for wall_ms, share in (
        (3, ""),
        (99, ""),
        (100, ", 1 % of the run's 100 ms"),
        (2000, ", 0.05 % of the run's 2.0 s"),
    ):
        cost = LogCost(samples=6, typical_ns=1000, wall_ns=wall_ms * 1_000_000)
        assert summary._cost(status, cost) == [f"log() cost 1.0 µs a call{share} (1,000 calls, 6 of them timed)"]


def test_a_new_database_is_announced_at_the_start_and_an_old_one_is_not(
    sqlite_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for uri, new in ((sqlite_uri, False), (f"sqlite:///{tmp_path}/new.db", True)):
        with tracking(uri, quiet=False, end_timeout=0, exit_timeout=0, on_error="warn") as sdk:
            sdk.start_run()
        said = lines(capsys.readouterr().err)
        assert ("(new: MLflow creates that database first, some seconds, once)" in said[0]) is new


def test_where_to_look_is_said_as_soon_as_there_is_something_to_see(
    mlflow_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        tracking(mlflow_server, quiet=False, experiment_name="seen early") as sdk,
        sdk.start_run(run_name="seen") as run,
    ):
        said: list[str] = []

        def look() -> bool:
            said.extend(lines(capsys.readouterr().err))
            return f"look at run 'seen' as it goes: {run.url}" in said

        eventually(look)
        with sdk.start_run(run_name="below", nested=True) as below:
            assert below.url
    assert len([line for line in said if "as it goes" in line]) == 1
