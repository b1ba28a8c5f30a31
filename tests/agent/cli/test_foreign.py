"""`tailrace import` of other trackers' runs: what it takes, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import tailrace
from helpers.sdk_tools import eventually
from tailrace_agent.reading.reader import open_reader

pytest.importorskip("tensorboard", reason="TensorBoard's package reads its files")

from helpers.event_files import Events


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tfevents", "nowhere"], "there is no nowhere: name the directory"),
        (["tfevents"], "there is no runs: name the directory"),
        (["wandb"], "there is no wandb: name the directory"),
        (["neptune", "a", "b"], "takes a file, or one of wandb, tfevents, neptune, trackio and a directory"),
        (["a.zip", "b"], "not a.zip b"),
        (["a.zip"], "there is no a.zip"),
        (["wandb", ".", "--follow"], "--follow goes with tfevents alone"),
        (["a.zip", "--follow"], "--follow goes with tfevents alone"),
    ],
)
def test_what_it_takes(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = tailrace("import", *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_json_says_what_became_of_each_run(sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Events(tmp_path / "runs" / "a").scalar("loss", 0, 1.0)
    (run,) = json.loads(tailrace("import", "tfevents", "--tracking-uri", sqlite_uri, "--json").stdout)["runs"]
    assert (run["run_name"], run["experiment"], run["outcome"], run["points"]) == ("a", "runs", "imported", 1)
    again = tailrace("import", "tfevents", "runs", "--tracking-uri", sqlite_uri, "--experiment", "other", "--json")
    (same,) = json.loads(again.stdout)["runs"]
    assert (same["run_id"], same["outcome"]) == (run["run_id"], "there")


@pytest.mark.slow
def test_following_ends_with_ctrl_c_and_so_do_the_runs(sqlite_uri: str, tmp_path: Path) -> None:
    events = Events(tmp_path / "logs" / "a")
    events.scalar("loss", 0, 1.0)
    code = "from tailrace_agent.cli import main; main()"
    command = [sys.executable, "-c", code, "import", "tfevents", str(tmp_path / "logs"), "--follow"]
    process = subprocess.Popen(
        [*command, "--tracking-uri", sqlite_uri, "--json"], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    reader = open_reader(sqlite_uri, "/")
    try:
        eventually(lambda: any("loss" in run.data.metrics for run in reader.search()))
        assert reader.search()[0].info.status == "RUNNING"
        events.scalar("loss", 1, 2.0)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    (run,) = json.loads(printed)["runs"]
    found = reader.find(run["run_id"])
    assert (found.info.status, found.data.metrics["loss"], run["points"]) == ("FINISHED", 2.0, 2)
