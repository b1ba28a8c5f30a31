"""`log_metric` and `log_metrics`: MLflow's step and time."""

from __future__ import annotations

from helpers.sdk_tools import Store
from tailrace import Tracker


def test_log_metric_has_mlflows_default_step_and_takes_a_time(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        sdk.log_metric("a", 1.0)
        sdk.log_metric("a", 2.0, 5)
        sdk.log_metric("timed", 3.0, step=1, timestamp=1_700_000_000_123)
        sdk.log_metrics({"timed": 4.0, "other": 5}, step=2, timestamp=1_700_000_000_456)
        sdk.log_metric("late", 1, timestamp=10**18)  # nanoseconds, by mistake
        sdk.log_metric("late", 2, timestamp="yesterday")  # type: ignore[arg-type]
        sdk.log_metrics({"b": 1, "c": 2})
    store = Store(sqlite_uri, run)
    assert store.metrics() == {
        "a": [(0, 1.0), (5, 2.0)],
        "timed": [(1, 3.0), (2, 4.0)],
        "other": [(2, 5.0)],
        "late": [(0, 1.0), (0, 2.0)],
        "b": [(0, 1.0)],
        "c": [(0, 2.0)],
    }
    assert [point.timestamp for point in store.client.get_metric_history(store.run_id, "timed")] == [
        1_700_000_000_123,
        1_700_000_000_456,
    ]
