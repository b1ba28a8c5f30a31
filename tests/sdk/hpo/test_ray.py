"""The callback for Ray Tune, called as Ray calls it; with Ray itself: tests/services/test_ray.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.sdk_tools import Store
from helpers.searches import parent_runs, trials_below
from tailrace import SettingsError, Tracker
from tailrace.protocol import TrackerLike


def _trial(name: str, folder: Path, **config: Any) -> Any:
    metadata = SimpleNamespace(error_filename="error.txt")
    return SimpleNamespace(
        trial_id=name, config=config, status="RUNNING", local_path=str(folder), run_metadata=metadata
    )


@pytest.mark.services
def test_trials_side_by_side_are_runs_below_one(tracker: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    from tailrace.hpo.ray import TailraceLoggerCallback

    callback = TailraceLoggerCallback("tuned", metric="loss", mode="min", tracker=tracker)
    callback.setup()
    good, bad, late = (_trial(name, tmp_path, x=number) for number, name in enumerate("abc"))
    for trial in (good, bad, late):
        callback.log_trial_start(trial)
    for iteration in (1, 2):
        result = {"training_iteration": iteration, "loss": 1.0 / iteration, "val": {"acc": 0.5}, "pid": 3, "note": "no"}
        callback.log_trial_result(iteration, good, result)
    callback.log_trial_result(1, bad, {"training_iteration": 1, "loss": float("nan")})
    (tmp_path / "error.txt").write_text("Traceback\n  …\nValueError: it diverges\n")
    callback.log_trial_end(good)
    callback.log_trial_end(bad, failed=True)
    callback.on_experiment_end([good, bad, late])
    (parent,) = parent_runs(sqlite_uri)
    store, children = Store(sqlite_uri, parent), trials_below(sqlite_uri, parent)
    assert {name: child.status for name, child in children.items()} == {
        "trial_0000": "FINISHED",
        "trial_0001": "FAILED",
        "trial_0002": "KILLED",
    }
    states = {name: child.tags["trial.state"] for name, child in children.items()}
    assert states == {"trial_0000": "TERMINATED", "trial_0001": "ERROR", "trial_0002": "INTERRUPTED"}
    first = children["trial_0000"]
    assert first.params == {"hpo/x": "0", "trial_number": "0", "study_name": "tuned"}
    assert first.history("loss") == [(1, 1.0), (2, 0.5)]
    assert first.history("val/acc") == [(1, 0.5), (2, 0.5)]
    assert not {"pid", "note"} & first.run.data.metrics.keys()
    assert children["trial_0001"].tags["error.message"] == "it diverges"
    assert store.status == "KILLED"
    assert store.run.data.metrics == {
        "best_loss": 0.5, "best_trial_number": 0.0, "total_trials": 3.0, "completed_trials": 1.0, "failed_trials": 2.0
    }  # fmt: skip
    assert store.params["best_hpo/x"] == "0"


@pytest.mark.services
def test_a_tracker_with_one_run_at_a_time_is_refused() -> None:
    from tailrace.hpo.ray import TailraceLoggerCallback

    with pytest.raises(SettingsError, match="several runs at a time"):
        TailraceLoggerCallback("tuned", tracker=SimpleNamespace()).setup()  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="mode is 'least'; allowed: min, max"):
        TailraceLoggerCallback("tuned", mode="least")


def test_what_reports_to_ray_is_a_tracker_and_reports_once_an_epoch() -> None:
    from tailrace.hpo.ray import ReportingTracker

    reported: list[dict[str, Any]] = []
    tracker = ReportingTracker(reported.append)
    assert isinstance(tracker, TrackerLike)
    with tracker.start_run(run_name="inside"):
        tracker.log({"train/loss_step": 2.0}, step=1)
        tracker.log({"epoch/val_loss": 1.0}, step=1)
    assert reported == [{"train/loss_step": 2.0, "epoch/val_loss": 1.0, "step": 1}]


def test_without_ray_a_callback_is_one_error_that_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    from tailrace.hpo import ray

    monkeypatch.setattr(ray, "LoggerCallback", None)
    with pytest.raises(SettingsError, match=r"pip install 'tailrace\[ray\]'"):
        ray.TailraceLoggerCallback("tuned")
