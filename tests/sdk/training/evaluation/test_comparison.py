"""Which of two models is better, whichever way a metric goes."""

from __future__ import annotations

from tailrace.training.evaluation.comparison import compared
from tailrace.training.measures.metric_names import metrics_of


def test_what_is_better_follows_the_metric_and_what_one_lacks_is_left_out() -> None:
    metrics = metrics_of(["rmse", "r2", "mae", "neg_mean_squared_error", "max_error"])
    mine = {"rmse": 1.0, "r2": 0.5, "mae": 2.0, "neg_mean_squared_error": -1.0}
    other = {"rmse": 2.0, "r2": 0.7, "mae": 2.0, "neg_mean_squared_error": -2.0, "max_error": 1.0}
    found = {each.metric: (each.verdict, each.difference) for each in compared(metrics, mine, other)}
    assert found == {
        "rmse": ("better", -1.0),
        "r2": ("worse", 0.5 - 0.7),
        "mae": ("equal", 0.0),
        "neg_mean_squared_error": ("better", 1.0),
    }
