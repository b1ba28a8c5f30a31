"""`tailrace top --once`, and where its runs come from."""

from __future__ import annotations

import sys

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from helpers.commands import tailrace
from helpers.left_sessions import live_session, spooled_session
from tailrace_agent.cli import top
from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.ipc import curve_files
from tailrace_agent.ipc.curve_files import RunCurves
from tailrace_agent.ipc.curves import Curve


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, quiet_mlflow: None) -> None:
    monkeypatch.setattr(top, "_ONCE_FOR", 0.1)


def test_one_frame_is_plain_text_with_the_course_of_a_live_run() -> None:
    session = live_session()
    lock = session.try_agent_lock()
    assert lock is not None
    curve = Curve()
    curve.add([(n, n, 1.0 / (n + 1)) for n in range(100)])
    curve_files.write(session.shared, 42, RunCurves(curves={"val/loss": curve.drawn}))
    try:
        result = tailrace("top", "--once")
    finally:
        let_go(lock)
    assert result.exit_code == 0
    assert "val/loss" in result.stdout
    assert "waiting for rain" not in result.stdout.splitlines()[0]
    assert "RUNNING" in result.stdout
    assert "\x1b" not in result.stdout
    assert any("⠀" < character <= "⣿" for character in result.stdout), "it is drawn"


def test_without_runs_it_says_so_and_of_a_crashed_one_what_is_left() -> None:
    assert "no runs yet" in tailrace("top", "--once").stdout
    spooled_session(run_name="left")
    text = tailrace("top", "--once").stdout
    assert "left" in text
    assert "UNKNOWN" in text


def test_a_stores_runs_are_drawn_from_what_it_has(sqlite_uri: str) -> None:
    client = MlflowClient(sqlite_uri)
    run = client.create_run("0", run_name="base")
    client.log_batch(run.info.run_id, [Metric("loss", 1.0 / (n + 1), 1_700_000_000_000 + n, n) for n in range(300)])
    client.log_metric(client.create_run("0", run_name="other").info.run_id, "acc", 0.5)
    text = tailrace("top", "--once", "--tracking-uri", sqlite_uri, "base").stdout
    assert "loss" in text
    assert "other" not in text
    assert "0.003333" in text
    text = tailrace("top", "--once", "--tracking-uri", sqlite_uri, "--filter", "metrics.acc > 0").stdout
    assert "acc" in text
    assert "base" not in text
    found = tailrace("top", "--once", "--tracking-uri", sqlite_uri, "--metric", "nothing").stdout
    assert "no metric fits" in found


def test_one_frame_of_a_long_history_has_its_spikes(sqlite_uri: str) -> None:
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run("0", run_name="long").info.run_id
    for begin in range(0, 8_000, 1_000):
        points = [Metric("loss", 5_000.0 if n == 4_321 else 1.0, n, n) for n in range(begin, begin + 1_000)]
        client.log_batch(run_id, points)
    text = tailrace("top", "--once", "--tracking-uri", sqlite_uri, "long").stdout
    assert "5000┤" in text
    assert "sampled" not in text


def test_a_store_that_is_not_there_is_an_error() -> None:
    result = tailrace("top", "--once", "--tracking-uri", "sqlite:////nowhere/mlflow.db")
    assert result.exit_code == 3
    assert "there is no store" in result.stderr


def test_without_textual_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.setattr(top, "find_spec", lambda name: None)
    result = tailrace("top")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "pip install 'tailrace[top]'" in result.stderr
    assert tailrace("top", "--once").exit_code == 0
