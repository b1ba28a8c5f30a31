"""The logger: stamps the latest sample with a training step, and logs nothing by itself."""

from __future__ import annotations

import time

import pytest

from helpers.samples import CPU, sampled, steps_of
from helpers.sdk_tools import Store, eventually
from tailrace import SystemMetricsLogger, Tracker


def test_the_logger_stamps_the_latest_sample_with_the_step_and_logs_nothing_by_itself(
    tracker: Tracker, sqlite_uri: str
) -> None:
    with tracker.start_run() as run:
        system = SystemMetricsLogger(log_disk=True, run=run)
        sampled(system._monitor)
        system.log_metrics(70)
        system.log_metrics(90, prefix="gauge")
        time.sleep(0.3)
        system.stop()
    store = Store(sqlite_uri, run)
    assert steps_of(store) == [70]
    assert steps_of(store, "gauge/disk_usage_percentage") == [90]
    assert not [name for name in store.run.data.metrics if "network" in name or "/process_" in name]


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("", "cpu_utilization_percentage"),
        ("gauge/", "gauge/cpu_utilization_percentage"),
        ("/", "cpu_utilization_percentage"),
    ],
)
def test_the_loggers_prefix_may_be_empty_or_end_in_a_slash(
    tracker: Tracker, sqlite_uri: str, prefix: str, name: str
) -> None:
    with tracker.start_run() as run:
        system = SystemMetricsLogger(run=run)
        eventually(lambda: CPU in system._monitor.latest())
        system.log_metrics(7, prefix=prefix)
    assert steps_of(Store(sqlite_uri, run), name) == [7]
    assert not run.ledger().dead


def test_a_monitor_that_joins_a_logger_lacks_nothing(tracker: Tracker, sqlite_uri: str) -> None:
    with tracker.start_run() as run:
        system = SystemMetricsLogger(log_cpu=False, run=run)
        sampled(system._monitor)
        with tracker.system_monitor() as monitor:
            eventually(lambda: CPU in monitor.latest())
            time.sleep(0.3)
    assert CPU in Store(sqlite_uri, run).run.data.metrics
