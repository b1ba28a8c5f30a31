"""Waiting for the agent: for how long, and what is shown of it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.sdk_tools import forget, lines, scripts
from tailrace import Counts, Ledger
from tailrace._messages import summary, waiting
from tailrace._messages.waiting import until
from tailrace_agent.ipc.status import RunStatus

AWAY = "http://127.0.0.1:9"


def test_a_wait_that_ended_before_the_agent_had_counted_everything_is_not_settled() -> None:
    def told() -> RunStatus:
        return RunStatus(run=1, ledger=Ledger(kinds={"metric": Counts(accepted=3, delivered=3)}))

    enough = until(told, lambda _: True, timeout=0)
    short = until(told, lambda _: False, timeout=0)
    assert enough is not None
    assert short is not None
    assert (enough.ledger.settled, short.ledger.settled) == (True, False)
    assert not enough.ledger.add(short.ledger).settled


def test_what_a_gpu_has_not_computed_is_not_what_mlflow_is_waited_for() -> None:
    ledger = Ledger(kinds={"metric": Counts(accepted=3, delivered=1)})
    assert waiting._what(RunStatus(run=1, run_id="r", ledger=ledger, computing=2), None, None) == (
        "a GPU computes what is left"
    )
    assert waiting._what(RunStatus(run=1, run_id="r", ledger=ledger, computing=1), None, None) == (
        "MLflow takes what is left"
    )


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    progress = waiting._Progress(False, new_store, lambda: None)
    progress.update(told, 2.0, 12.0)
    assert lines(capsys.readouterr().err) == [expected]


def test_progress_counts_what_was_delivered_and_not_what_was_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    counts = Counts(accepted=51, delivered=1, dropped={"value is no number": 40})
    status = RunStatus(run=1, run_id="a", ledger=Ledger(kinds={"metric": counts}))
    waiting._Progress(False, None, lambda: None).update(status, 2.0, 10.0)
    assert capsys.readouterr().err.startswith("tailrace: 1 of 11 delivered; ")
    assert summary.nested_left([status], 3) == "3 of 3 nested runs (1 of 11 points so far)"
