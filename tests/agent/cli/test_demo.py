"""`tailrace demo`: a real training, seen in MLflow and its UI."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from helpers.sdk_tools import command_line, lay_traps
from tailrace_agent.mlflow.links import ui_address
from tailrace_agent.settings.sources import load_settings


@pytest.mark.slow
def test_the_demo_trains_and_its_run_is_there_and_the_ui_shows_it_on_a_free_port(
    sqlite_uri: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert sqlite_uri == f"sqlite:///{tmp_path}/mlflow.db"  # MLflow's default here, spared the seconds of making it
    tailrace = command_line(tmp_path_factory.mktemp("installed"))
    sprung = lay_traps(tmp_path)
    demo = subprocess.run(
        [*tailrace, "demo", "--steps", "90"], capture_output=True, text=True, timeout=100, check=False
    )
    assert demo.returncode == 0, demo.stderr
    assert "nothing lost" in demo.stderr
    assert "log() cost" in demo.stderr
    assert "tailrace ui" in demo.stderr
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        counts = dict(db.execute("SELECT key, count(*) FROM metrics GROUP BY key").fetchall())
        ((status, name, run_id, experiment),) = db.execute("SELECT status, name, run_uuid, experiment_id FROM runs")
    assert status == "FINISHED"
    assert counts["loss"] == counts["batch_ms"] == 90
    assert counts["test/accuracy"] >= 2
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        ui = subprocess.Popen([*tailrace, "ui", "--port", str(port)], stdout=subprocess.PIPE, text=True)
        assert ui.stdout is not None
        try:
            lines = [ui.stdout.readline() for _ in range(4)]
            assert f"port {port} is busy" in lines[0]
            address = ui_address(sqlite_uri, load_settings())
            assert address is not None
            kind = "?workflowType=machine_learning"
            assert lines[2] == f"open {address}/#/experiments/{experiment}{kind} in a browser; Ctrl-C ends it\n"
            assert lines[3] == f"the newest run, {name}: {address}/#/experiments/{experiment}/runs/{run_id}{kind}\n"
            with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
                assert answer.status == 200
        finally:
            ui.send_signal(signal.SIGINT)
            rest, _ = ui.communicate(timeout=30)
    assert (ui.returncode, rest.strip()) == (0, "ended")
    assert ui_address(sqlite_uri, load_settings()) is None
    assert sprung() == [], "code in the working directory is not tailrace's to run"
