"""With tracking off: the same script, the same results, and local reports instead of a run in MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from helpers.sdk_tools import Store, script, tracking
from tailrace import CallError, Tracker

mpl.use("agg")


def metrics(directory: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((directory / "reports" / "metrics.json").read_text())
    return found


def test_a_run_leaves_its_config_its_last_metrics_and_its_figures(off: Tracker, tmp_path: Path) -> None:
    with off.start_run(run_name="baseline", tags={"team": "a"}) as run:
        run.log_params({"lr": 0.1, "model": {"layers": [64, 10], "dropout": None}})
        off.log_params({"seed": 7, "lr": 5})
        for step in range(20):
            off.log(step=step, loss=1.0 / (step + 1))
            run.log({"train/accuracy": step / 20})
        off.log_metrics({"val/loss": 0.5}, step=20, timestamp=1)
        off.log_figure(Figure(), "plots/loss.png")
        off.log_image(np.zeros((4, 4, 3), np.uint8), "figures/sample.png")
        off.log_image(np.zeros((4, 4, 3), np.uint8), key="each_step", step=1)
        off.log_text("hello", "notes.txt")
        off.log_backtest("momentum", {"Sharpe Ratio": 1.4}, equity=[100.0, 101.5, 99.0])
        off.log_config({"layers": 2})
    reports = tmp_path / "reports"
    assert yaml.safe_load((reports / "config.yaml").read_text()) == {
        "lr": 0.1,
        "model": {"layers": [64, 10], "dropout": None},
        "seed": 7,
        "layers": 2,
    }
    assert metrics(tmp_path) == {
        "loss": 0.05,
        "train/accuracy": 0.95,
        "val/loss": 0.5,
        "backtest/momentum/sharpe_ratio": 1.4,
    }
    files = sorted(str(path.relative_to(reports)) for path in reports.rglob("*") if path.is_file())
    figures = ["backtest/momentum/equity.png", "plots/loss.png", "sample.png"]
    assert files == ["config.yaml", *(f"figures/{name}" for name in figures), "metrics.json", "run.json"]
    told = json.loads((reports / "run.json").read_text())
    assert (told["name"], told["status"], told["tags"]["team"]) == ("baseline", "FINISHED", "a")
    assert list(tmp_path.iterdir()) == [reports]


def test_an_exception_passes_through_and_the_report_says_failed(off: Tracker, tmp_path: Path) -> None:
    def train() -> None:
        with off.start_run():
            off.log(step=0, loss=0.5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    told = json.loads((tmp_path / "reports" / "run.json").read_text())
    assert (told["status"], told["tags"]["error.type"]) == ("FAILED", "ZeroDivisionError")
    assert metrics(tmp_path) == {"loss": 0.5}


def test_earlier_reports_and_files_that_lay_there_are_kept(off: Tracker, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "metrics.json").write_text("mine")
    for value in (1, 2, 3):
        with off.start_run():
            off.log(value=value)
    assert metrics(tmp_path) == {"value": 3}
    kept = sorted(path.read_text() for path in (tmp_path / "reports" / "earlier").glob("*/metrics.json"))
    assert [json.loads(text)["value"] for text in kept if text != "mine"] == [1, 2]
    assert "mine" in kept


def test_a_wrong_value_is_said_once_and_left_out(
    off: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mistaken: Any = 5
    with off.start_run():
        for _ in range(3):
            off.log({"loss": 0.5, "note": "hello", 3: 1.0})
            off.log(mistaken, accuracy=1.0)
    assert metrics(tmp_path) == {"loss": 0.5, "accuracy": 1.0}
    assert sorted(record.getMessage() for record in caplog.records) == [
        "tailrace: log() takes a mapping or keywords, not int",
        "tailrace: metric '3' was not logged: the key is int, not str",
        "tailrace: metric 'note' was not logged: str is no number",
    ]


def test_a_changed_param_is_no_dead_letter_where_nothing_is_delivered(
    off: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with off.start_run() as run:
        run.log_params({"lr": 1})
        run.log_params({"lr": 2})
    assert caplog.messages == ["tailrace: param 'lr' is '1' already and cannot become '2': the first is kept"]


def test_strict_calls_raise_with_tracking_off_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with tracking("http://localhost:1", agent="off", strict=True) as sdk:
        run = sdk.start_run()
        with pytest.raises(CallError, match="note"):
            run.log(note="hello")


def test_a_directory_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with tracking("http://localhost:1", agent="off", reports_dir="file") as sdk, sdk.start_run():
        sdk.log(loss=1)
    assert f"the local reports could not be written to {tmp_path / 'file'}" in caplog.text


def test_the_backend_none_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with tracking("http://localhost:1", backend="none") as sdk, sdk.start_run():
        sdk.log(loss=1)
        sdk.log_params({"a": 1})
        sdk.log_figure(Figure(), "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_script_needs_no_change_and_no_agent(tmp_path: Path) -> None:
    code = """
        import sys
        import tailrace as sdk
        sdk.log_params({"lr": 0.1})
        sdk.log(step=0, loss=0.5)
        print(sdk.active_run().status, "mlflow" in sys.modules)
    """
    done = script(tmp_path, code, TAILRACE_ENABLED="false", MLFLOW_TRACKING_URI="http://localhost:1")
    assert done.stdout.split() == ["RUNNING", "False"]
    assert f"tailrace: tracking is off: 1 metric, 1 param, 0 figures → {tmp_path}/reports/" in done.stderr
    assert metrics(tmp_path) == {"loss": 0.5}
    assert not (tmp_path / "tailrace").exists()


def test_the_switches_switch_off_what_they_name(sqlite_uri: str) -> None:
    off = dict.fromkeys(("log_params", "log_metrics", "log_artifacts"), False)
    with tracking(sqlite_uri) as sdk:
        with sdk.start_run(tags={"kept": "yes"}, **off) as nothing:
            sdk.log_params({"lr": 0.1})
            sdk.log(step=0, loss=0.5)
            nothing.log_metrics({"loss": 0.5}, timestamp=1)
            sdk.log_text("hello", "a.txt")
            sdk.log_artifact(__file__)
        stored = Store(sqlite_uri, nothing)
    assert (stored.params, stored.metrics(), stored.artifacts()) == ({}, {}, [])
    assert stored.tags["kept"] == "yes"
