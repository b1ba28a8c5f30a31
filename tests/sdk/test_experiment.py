"""Experiments: their config, metrics and figures are logged by themselves, and they run the same without tracking."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure

from helpers.sdk_tools import named
from tailrace import Experiment, Tracker


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
