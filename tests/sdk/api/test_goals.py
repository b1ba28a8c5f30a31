"""`define_metric`: what the program says of its metrics, and what MLflow has of it."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.sdk_tools import Store, lines, tracking, warnings
from tailrace import CallError


def test_the_best_value_and_its_step_are_metrics_of_the_run(
    sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracking(sqlite_uri, quiet=False, best_metrics=True) as sdk:
        with sdk.start_run() as run:
            sdk.define_metric("gap/*", summary="max")
            for step, value in enumerate([0.5, 0.25, 0.75]):
                sdk.log({"gap/a": value, "loss": value, "lr": value}, step=step)
        first, second, third, *_ = lines(capsys.readouterr().err)[1:]
    metrics = Store(sqlite_uri, run).metrics()
    assert {key: [value for _, value in points] for key, points in metrics.items() if ".best" in key} == {
        "gap/a.best": [0.75],
        "gap/a.best_step": [2.0],
        "loss.best": [0.25],
        "loss.best_step": [1.0],
    }
    assert first == "gap/a  0.75  best 0.75 at step 2  ▅▁█"
    assert second == "loss   0.75  best 0.25 at step 1  ▅▁█"
    assert third == "lr     0.75                       ▅▁█"


def test_a_run_that_goes_on_keeps_the_better(sqlite_uri: str) -> None:
    with tracking(sqlite_uri, best_metrics=True) as sdk:
        with sdk.start_run() as run:
            sdk.log(step=0, loss=0.25)
        for loss in (0.5, 0.125):
            with sdk.start_run(run_id=run.run_id) as again:
                assert again.run_id
                sdk.log(step=1, loss=loss)
            best = Store(sqlite_uri, run).history("loss.best")[-1][1]
            assert best == min(loss, 0.25)


@pytest.mark.parametrize(("name", "summary"), [("loss", "mean"), (7, "min"), ("loss", None)])
def test_what_is_no_goal_is_said_and_stops_nothing(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture, name: Any, summary: Any
) -> None:
    with tracking(sqlite_uri, best_metrics=True) as sdk, sdk.start_run():
        sdk.define_metric(name, summary=summary)
    (warning,) = warnings(caplog)
    assert "the summary one of min, max, last; not taken" in warning
    with tracking(sqlite_uri, strict=True) as sdk, sdk.start_run(), pytest.raises(CallError, match="define_metric"):
        sdk.define_metric(name, summary=summary)
