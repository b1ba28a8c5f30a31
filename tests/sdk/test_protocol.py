"""An engine that knows nothing of tailrace but the protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from helpers.sdk_tools import named, tracking
from tailrace import Tracker, TrackerLike


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
