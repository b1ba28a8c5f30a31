"""Trackers as context managers and in engines, experiments, and local reports that come into MLflow later."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from matplotlib.figure import Figure
from mlflow import MlflowClient

from helpers.sdk_tools import Store, lay_traps, named, tracking
from tailrace import CallError, Experiment, Tracker, TrackerLike, TrackingConfig, import_reports
from tailrace._api.tracker_part import tracker_core_of
from tailrace_agent.cli import main as command_line


class Digits(Experiment):
    """Nothing to learn, but all of it logged."""

    def train(self) -> None:
        for step in range(3):
            self.log({"train/loss": 1.0 / (step + 1)}, step=step)

    def evaluate(self) -> dict[str, Any]:
        if self.config.get("broken"):
            raise ValueError("no data")
        return {"final/accuracy": self.config["lr"] * 9, "test/draw": random.random()}

    def figures(self) -> dict[str, Any]:
        return {"confusion.png": Figure()}


def document(**own: Any) -> dict[str, Any]:
    return {"name": "baseline", "seed": 7, "lr": 0.1, "model": {"layers": 2}, **own}


@pytest.fixture(scope="module")
def tracked(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tracker, str]]:
    """A tracker that all tests here share, and its store."""
    directory = tmp_path_factory.mktemp("tracked")
    uri = f"sqlite:///{directory / 'mlflow.db'}"
    (directory / "mlflow.db").write_bytes(sqlite_template.read_bytes())
    with tracking(uri, dir=str(directory / "state"), experiment_name="experiments") as tracker:
        yield tracker, uri


def test_an_experiment_logs_its_config_metrics_figures_and_seed(tracked: tuple[Tracker, str]) -> None:
    tracker, uri = tracked
    first = Digits(document(), tracker=tracker).run()
    stored = named(uri, "baseline")
    assert stored.status == "FINISHED"
    assert stored.params == {"name": "baseline", "seed": "7", "lr": "0.1", "model.layers": "2"}
    assert stored.metrics() == {
        "train/loss": [(0, 1.0), (1, 0.5), (2, 1 / 3)],
        "final/accuracy": [(0, 0.9)],
        "test/draw": [(0, first["test/draw"])],
    }
    assert stored.artifacts() == ["config/config.yaml", "figures/confusion.png"]


def test_an_experiment_seeds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seeds: list[int] = []
    monkeypatch.setattr("tailrace.experiment.random.seed", seeds.append)
    Digits({**document(), "mlflow_tracking": False}).run()
    assert seeds == [7]


def test_an_experiment_that_fails_says_so_and_raises(tracked: tuple[Tracker, str]) -> None:
    tracker, uri = tracked
    with pytest.raises(ValueError, match="no data"):
        Digits(document(name="broken", broken=True), tracker=tracker).run()
    stored = named(uri, "broken")
    assert (stored.status, stored.tags["error.type"], stored.tags["error.message"]) == (
        "FAILED",
        "ValueError",
        "no data",
    )
    assert tracker.active_run() is None


def test_the_same_experiment_runs_the_same_without_tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**document(), "mlflow_tracking": False}))
    results = Digits(path).run()
    assert Digits(path).run() == results, "seeded"
    assert json.loads(Path("reports/metrics.json").read_text()) == {"train/loss": 1 / 3, **results}
    assert yaml.safe_load(Path("reports/config.yaml").read_text()) == document()
    assert Path("reports/figures/confusion.png").exists()


def test_a_tracker_is_a_context_manager_that_starts_and_ends_a_run(tracked: tuple[Tracker, str]) -> None:
    shared, uri = tracked
    config = TrackingConfig(run_name="managed", tags={"team": "a"})
    tracker = Tracker(
        uri, "experiments", config=config, agent="thread", quiet=True, dir=tracker_core_of(shared).given["dir"]
    )
    with tracker as entered:
        assert entered is tracker
        tracker.log(step=0, loss=0.5)
        with tracker.start_run(nested=True, run_name="child"):
            tracker.log(step=0, loss=0.25)
    assert tracker.active_run() is None
    stored = named(uri, "managed")
    assert (stored.status, stored.tags["team"], stored.history("loss")) == ("FINISHED", "a", [(0, 0.5)])
    assert named(uri, "child").tags["mlflow.parentRunId"] == stored.run_id

    by_hand = Tracker(
        uri, "experiments", auto_start_run=False, agent="thread", quiet=True, dir=tracker_core_of(shared).given["dir"]
    )

    def by_hand_and_wrong() -> None:
        with by_hand:
            assert by_hand.active_run() is None
            by_hand.start_run(run_name="by hand")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        by_hand_and_wrong()
    assert named(uri, "by hand").status == "FAILED"


def engine(tracker: TrackerLike) -> None:
    """Knows nothing of tailrace but the protocol."""
    with tracker.start_run(run_name="engine", tags={"engine": "mine"}):
        tracker.log_config({"optimizer": {"lr": 0.1}})
        tracker.log({"epoch/train_loss": 0.5}, step=1)
        tracker.log_params({"seed": 1})
        tracker.log_figure(Figure(), "plots/loss.png")
        tracker.log_artifact(__file__)
        tracker.set_tags({"done": "yes"})
    tracker.end_run()


def test_an_engine_takes_a_tracker_that_delivers_and_one_that_does_not(
    tracked: tuple[Tracker, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker, uri = tracked
    with tracking(uri, backend="local") as off:
        for each in (tracker, off):
            assert isinstance(each, TrackerLike)
            engine(each)
    stored = named(uri, "engine")
    assert stored.params == {"optimizer.lr": "0.1", "seed": "1"}
    assert stored.artifacts() == ["config/config.yaml", "plots/loss.png", Path(__file__).name]
    assert yaml.safe_load(Path("reports/config.yaml").read_text()) == {"optimizer": {"lr": 0.1}, "seed": 1}


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
