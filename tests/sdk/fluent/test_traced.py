"""Traces and the run that is active: `tailrace._fluent.traced`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import mlflow
import pytest

import tailrace
from helpers.sdk_tools import forget, script
from tailrace._fluent import traced


def traces_of(run_id: str) -> list[tuple[str, Any]]:
    """What each of a run's traces was called with, and its experiment."""
    mlflow.flush_trace_async_logging()
    found: Any = mlflow.search_traces(run_id=run_id, return_type="list")
    return sorted((trace.data.request, trace.info.experiment_id) for trace in found)


def test_a_trace_names_the_run_that_is_active_and_goes_to_its_experiment(store: str) -> None:
    @tailrace.trace
    def work(number: int) -> int:
        return number

    with tailrace.start_run() as run:
        work(1)
        with tailrace.start_run(nested=True) as below, tailrace.start_span("by hand") as span:
            span.set_inputs({"number": 2})
        thread = threading.Thread(target=work, args=(3,))
        thread.start()
        thread.join()
    work(4)
    experiment = run.info.experiment_id
    assert traces_of(run.run_id) == [('{"number": 1}', experiment), ('{"number": 3}', experiment)]
    assert traces_of(below.run_id) == [('{"number": 2}', experiment)]


def test_a_run_that_mlflow_does_not_create_is_waited_for_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(traced, "until", lambda *_, timeout, **__: waits.append(timeout))
    with tailrace.start_run():
        for _ in range(3):
            with tailrace.start_span("work"):
                pass
    assert waits[0] > 0.0
    assert set(waits[1:]) == {0.0}


def test_a_run_that_mlflow_has_begun_is_named_as_ever(store: str) -> None:
    mlflow.set_tracking_uri(store)
    with mlflow.start_run() as run, tailrace.start_span("work") as span:
        span.set_inputs({"number": 1})
    assert traces_of(run.info.run_id) == [('{"number": 1}', run.info.experiment_id)]


PLUGGED = """
import mlflow, tailrace
tailrace.install()

@mlflow.trace
def work(number):
    return number

with tailrace.start_run(quiet=True) as run:
    work(1)
with mlflow.start_run() as second:
    work(2)
    with tailrace.start_run(nested=True, quiet=True) as third:
        work(3)
mlflow.flush_trace_async_logging()
for run_id in (run.run_id, second.info.run_id, third.run_id):
    print("FOUND", *[trace.data.request for trace in mlflow.search_traces(run_id=run_id, return_type="list")])
"""


@pytest.mark.slow
def test_with_the_store_plug_in_traces_name_runs_of_both(sqlite_uri: str, tmp_path: Path) -> None:
    done = script(tmp_path, PLUGGED, MLFLOW_TRACKING_URI=sqlite_uri)
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert found == [f'FOUND {{"number": {number}}}' for number in (1, 2, 3)]
    forget(tmp_path)
