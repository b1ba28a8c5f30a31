"""What a person sees: one line at the start, three at the end, progress in between, nothing when asked for quiet."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdk_tools import forget, scripts, tracking

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
import tailrace as sdk
with sdk.start_run(run_name="waits", tracking_uri="{AWAY}", end_timeout=2.5, agent="AGENT", linger=0):
    sdk.log(loss=1, accuracy=2)
    sdk.log_text("text", "text.txt")
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
    assert caplog.records == []


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
    assert lines(plain)[-1].startswith("2 points and 1 artifact not delivered after 2.5 s")
    assert "Nothing is lost: it goes on while this program runs, " in lines(plain)[-1]
    forget(tmp_path)
