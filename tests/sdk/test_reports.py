"""Local reports that come into MLflow later: with their own times, and once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from mlflow import MlflowClient

from helpers.sdk_tools import Store, lay_traps, tracking
from tailrace import CallError, import_reports
from tailrace_agent.cli import main as command_line


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reports of a parent, its child and a run that failed."""
    monkeypatch.chdir(tmp_path)
    with tracking("http://localhost:1", agent="off") as off:
        with off.start_run(run_name="parent", params={"lr": 1e-5, "layers": [1, 2]}, tags={"team": "a"}):
            off.log(step=3, loss=0.5, nothing=float("nan"))
            off.log_figure(Figure(), "loss.png")
            with off.start_run(nested=True, run_name="child"):
                off.log({"trial/loss": 0.25})
        off.start_run(run_name="failed").fail(ValueError("no data"))
    return tmp_path / "reports"


def test_reports_become_runs_with_their_own_times_once(reports: Path, sqlite_uri: str) -> None:
    settings: dict[str, Any] = {"agent": "thread"}
    imported = import_reports(reports, sqlite_uri, "imported", **settings)
    assert [(run.name, run.new) for run in imported] == [("parent", True), ("child", True), ("failed", True)]
    parent, child, failed = (Store(sqlite_uri, run.run_id) for run in imported)
    told = json.loads((imported[0].path / "run.json").read_text())
    assert (parent.run.info.start_time, parent.run.info.end_time) == (told["start_time"], told["end_time"])
    assert parent.params == {"lr": "1e-05", "layers": "[1, 2]"}
    assert parent.history("loss") == [(0, 0.5)]
    (point,) = parent.client.get_metric_history(parent.run_id, "loss")
    assert point.timestamp == told["end_time"]
    assert (parent.tags["team"], parent.tags["tailrace.run"]) == ("a", told["run"])
    assert parent.artifacts() == ["config/config.yaml", "figures/loss.png"]
    assert child.tags["mlflow.parentRunId"] == parent.run_id
    assert (failed.status, failed.tags["error.message"]) == ("FAILED", "no data")
    again = import_reports(reports, sqlite_uri, "imported", **settings)
    assert [(run.run_id, run.new) for run in again] == [(run.run_id, False) for run in imported]
    client = MlflowClient(sqlite_uri)
    assert len(client.search_runs([parent.run.info.experiment_id])) == 3


@pytest.mark.slow
def test_the_command_imports_reports_too(reports: Path, sqlite_uri: str, tmp_path: Path) -> None:
    assert Path.cwd() == tmp_path
    sprung = lay_traps(tmp_path)
    done = CliRunner().invoke(command_line, ["import", str(reports), "--tracking-uri", sqlite_uri, "--json"])
    assert done.exit_code == 0
    done = CliRunner().invoke(command_line, ["import", str(reports / "figures"), "--tracking-uri", sqlite_uri])
    assert (done.exit_code, "holds no local reports" in done.output) == (2, True)
    client = MlflowClient(sqlite_uri)
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    assert sorted(run.info.run_name for run in client.search_runs(everywhere)) == ["child", "failed", "parent"]
    assert sprung() == [], "code in the working directory is not tailrace's to run"


def test_a_directory_without_reports_or_with_broken_ones_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="no local reports"):
        import_reports(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(CallError, match=f"the report in {tmp_path} cannot be read: metrics.json: "):
        import_reports(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    for told in ('{"run": "ff", "start_time": 5, "tags": 5}', '{"run": "ffffffffffffffffff", "start_time": 5}'):
        (tmp_path / "run.json").write_text(told)
        with pytest.raises(CallError, match=r"cannot be read: run\.json: "):
            import_reports(tmp_path)
