"""What a person sees: one line at the start, three at the end, progress in between, nothing when asked for quiet."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.sdk_tools import Store, eventually, forget, said, scripts, tracking
from tailrace import Counts, Ledger
from tailrace._messages import summary as _report
from tailrace._messages import voice as _say
from tailrace._messages import waiting as _wait
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.records import End, LogCost, RunSpec, Start
from tailrace_agent.ipc.status import RunStatus

AWAY = "http://127.0.0.1:9"


def lines(text: str) -> list[str]:
    """The lines that tailrace has printed."""
    return [line.removeprefix("tailrace: ") for line in text.splitlines() if line.startswith("tailrace: ")]


def test_a_run_says_one_line_at_its_start_and_three_at_its_end(
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
        arrived, cost, where = lines(capsys.readouterr().err)
        assert re.fullmatch(r"2,000 points delivered with 1 param, 1 artifact in [34] requests; nothing lost", arrived)
        assert re.fullmatch(
            r"log\(\) cost \d+\.\d µs a call, [\d.e-]+ % of the run's [\d.]+ m?s \(1,000 calls, \d+ of them timed\)",
            cost,
        )
        assert where == f"look at run 'base line' with `tailrace ui --tracking-uri {sqlite_uri}`"

        with sdk.start_run(run_id=run.run_id):
            sdk.log(loss=1)
        first, arrived, cost, _ = lines(capsys.readouterr().err)
        assert first.startswith(f"resuming run {run.run_id} ")
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
        "2 points delivered with 1 param in 2 requests; 2 refused by MLflow (`tailrace dead list`); "
        "1 dropped: step is no integer; 1 dropped: value is no number"
    )


def test_over_http_the_last_line_is_the_runs_address(mlflow_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking(mlflow_server, quiet=False, experiment_name="printed") as sdk, sdk.start_run() as run:
        sdk.log(x=1)
    assert lines(capsys.readouterr().err)[-1] == f"look at {run.url}"


WAITING = f"""
import time
import tailrace as sdk
with sdk.start_run(run_name="waits", tracking_uri="{AWAY}", end_timeout=2.5, agent="AGENT", linger=0) as run:
    sdk.log(loss=1, accuracy=2)
    sdk.log_text("text", "text.txt")
    while run.ledger().pending < 3:  # not before the agent has taken it over, however busy the machine is
        time.sleep(0.05)
print("trained")
"""


def test_waiting_shows_plain_lines_where_there_is_no_terminal_and_nothing_when_quiet(tmp_path: Path) -> None:
    code = WAITING.replace("AGENT", "process")
    done = scripts(tmp_path, {"loud": code, "quiet": code.replace("linger", "quiet=True, linger")})
    said = lines(done["loud"].stderr)
    assert said[0] == f"run 'waits' in experiment 'Default' → {AWAY}"
    progress = [line for line in said if " of 3 delivered" in line]
    assert len(progress) == 1
    assert all(re.search(r"waiting \d s more at most$", line) for line in progress)
    assert re.fullmatch(
        r"2 points and 1 artifact not delivered after 2\.5 s( \(.*\))?\. Nothing is lost: the agent goes on, "
        r"`tailrace status` shows how far, `tailrace sync` or the next start delivers what is left\.",
        said[-1],
    ), said
    assert len(said) - len(progress) <= 3
    # What is said when something is wrong is no chatter: the setting does not silence it.
    assert [line for line in lines(done["quiet"].stderr) if "delivered;" in line or "→" in line] == []
    assert "2 points and 1 artifact not delivered" in done["quiet"].stderr
    for name, program in done.items():
        assert (program.returncode, program.stdout) == (0, "trained\n")
        forget(tmp_path / name)


def test_quiet_prints_nothing_at_all_when_all_is_well(
    sqlite_uri: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAILRACE_QUIET", "1")
    with tracking(sqlite_uri, quiet=None) as sdk, sdk.start_run():
        sdk.log(loss=1)
    assert capsys.readouterr() == ("", "")
    assert said(caplog) == []


def test_waiting_shows_a_bar_on_a_terminal_that_goes_away_again(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "TAILRACE_DIR": str(tmp_path / "tailrace")}
    code = WAITING.replace("AGENT", "thread")
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=slave, stdin=slave, env=environ, cwd=tmp_path
    )
    os.close(slave)
    seen = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(master)
    assert program.wait(10) == 0
    screen = seen.decode()
    assert "━" in screen
    assert "0/3" in screen
    assert "more at most" in screen
    assert "\x1b[2K" in screen, "the bar's line is wiped"
    assert " of 3 delivered;" not in screen, "no plain lines on a terminal"
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen).replace("\r", "\n")
    assert re.match(r"2 points and 1 artifact not delivered after 2\.\d s", lines(plain)[-1])
    assert "Nothing is lost: it goes on while this program runs, " in lines(plain)[-1]
    forget(tmp_path)


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
    assert [line[:24] for line in _report._cost(nothing, LogCost())] == ["log() was not called, an"]
    assert _report._cost(below, LogCost()) == []
    brought = RunStatus(run=1, ledger=Ledger(kinds={"metric": Counts(accepted=1, delivered=1)}))
    assert _report._cost(brought, LogCost()) == []


def test_a_run_that_has_ended_knows_of_runs_below_it_whoever_began_them() -> None:
    book = RunBook({}, lambda _run, _state: None)
    for run, parent in ((1, None), (2, 1)):
        book.start(Start(RunSpec(run=run, start_time=5, cwd="/", owned=True, parent=parent)), f"ring {run}")
        book.end(End(run, "FINISHED", 6, LogCost()))
    assert [book.status(run, Ledger(), 0.0).parent for run in (1, 2)] == [True, False]


def test_below_a_tenth_of_a_second_nothing_is_said_of_a_share() -> None:
    status = RunStatus(run=1, ledger=Ledger(calls=1000))
    for wall_ms, share in (
        (3, ""),
        (99, ""),
        (100, ", 1 % of the run's 100 ms"),
        (2000, ", 0.05 % of the run's 2.0 s"),
    ):
        cost = LogCost(samples=6, typical_ns=1000, wall_ns=wall_ms * 1_000_000)
        assert _report._cost(status, cost) == [f"log() cost 1.0 µs a call{share} (1,000 calls, 6 of them timed)"]


def test_a_new_database_is_announced_at_the_start_and_an_old_one_is_not(
    sqlite_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for uri, new in ((sqlite_uri, False), (f"sqlite:///{tmp_path}/new.db", True)):
        with tracking(uri, quiet=False, end_timeout=0, exit_timeout=0, on_error="warn") as sdk:
            sdk.start_run()
        said = lines(capsys.readouterr().err)
        assert ("(new: MLflow creates that database first, some seconds, once)" in said[0]) is new


@pytest.mark.parametrize(
    ("status", "new_store", "expected"),
    [
        (None, None, "the agent starts; waiting 10 s more at most"),
        ({}, None, "MLflow creates the run; waiting 10 s more at most"),
        ({}, "/x/mlflow.db", "MLflow creates its database /x/mlflow.db, once; waiting 10 s more at most"),
        ({"problem": "away\nsecond line"}, None, "MLflow does not answer (away); waiting 10 s more at most"),
        ({"run_id": "a"}, None, "the agent catches up; waiting 10 s more at most"),
        ({"run_id": "a", "status": "FAILED"}, None, "MLflow stores the run's end; waiting 10 s more at most"),
        (
            {"run_id": "a", "ledger": Ledger(kinds={"metric": Counts(accepted=5, delivered=2)})},
            None,
            "2 of 5 delivered; MLflow takes what is left; waiting 10 s more at most",
        ),
    ],
)
def test_each_wait_says_what_it_is_for(
    capsys: pytest.CaptureFixture[str], status: dict[str, Any] | None, new_store: str | None, expected: str
) -> None:
    told = None if status is None else RunStatus(run=1, **status)
    progress = _wait._Progress(False, new_store, lambda: None)
    progress.update(told, 2.0, 12.0)
    assert lines(capsys.readouterr().err) == [expected]


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
            "run 'below': 1 point delivered in 1 request; nothing lost",
        ]


def test_what_is_left_of_nested_runs_is_part_of_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    with tracking(AWAY, end_timeout=1.2, exit_timeout=0, linger=0, on_error="warn") as sdk, sdk.start_run():
        for _ in range(3):
            with sdk.start_run(nested=True):
                sdk.log(step=0, x=1.0)
    assert "3 of 3 nested runs (0 of 3 points so far) and the run's end not delivered after 1." in caplog.text


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


def test_a_stream_without_the_characters_of_a_line_gets_them_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(stream, encoding="ascii"))
    _say.print_line("run 'é' → there")
    assert stream.getvalue() == b"tailrace: run '\\xe9' \\u2192 there\n"


def test_progress_counts_what_was_delivered_and_not_what_was_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    counts = Counts(accepted=51, delivered=1, dropped={"value is no number": 40})
    status = RunStatus(run=1, run_id="a", ledger=Ledger(kinds={"metric": counts}))
    _wait._Progress(False, None, lambda: None).update(status, 2.0, 10.0)
    assert capsys.readouterr().err.startswith("tailrace: 1 of 11 delivered; ")
    assert _report.nested_left([status], 3) == "3 of 3 nested runs (1 of 11 points so far)"
