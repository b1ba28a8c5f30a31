"""The runs of a store in programs of several processes: `tailrace.store.runs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.sdk_tools import Store, eventually, forget, script

PROCESSES = """
import multiprocessing, os, subprocess, sys
import mlflow, tailrace

def work(run_id, how):
    tailrace.install()
    client = mlflow.MlflowClient()
    for step in range(20):
        client.log_metric(run_id, how, float(step), step=step)
    client.set_tag(run_id, how, "there")
    assert mlflow.get_run(run_id).data.metrics[how] == 19.0
    assert len(client.get_metric_history(run_id, how)) == 20

if __name__ == "__main__":
    tailrace.install()
    with mlflow.start_run() as run:
        mlflow.log_metric("before", 1.0)
        children = [
            multiprocessing.get_context(how).Process(target=work, args=(run.info.run_id, how))
            for how in ("fork", "spawn")
        ]
        for child in children:
            child.start()
        raw = os.fork()
        if raw == 0:
            try:
                work(run.info.run_id, "raw")
            finally:
                os._exit(0)
        os.waitpid(raw, 0)
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0]
        mlflow.log_metric("after", 1.0)
        print(run.info.run_id)
"""


@pytest.mark.slow
def test_forked_and_spawned_workers_log_to_the_run_that_they_are_given(sqlite_uri: str, tmp_path: Path) -> None:
    done = script(tmp_path, PROCESSES, MLFLOW_TRACKING_URI=sqlite_uri)
    run = Store(sqlite_uri, done.stdout.split()[-1])
    counted = {key: len(points) for key, points in run.metrics().items()}
    assert counted == {"before": 1, "fork": 20, "spawn": 20, "raw": 20, "after": 1}
    assert {run.tags[how] for how in ("fork", "spawn", "raw")} == {"there"}
    assert run.status == "FINISHED"
    forget(tmp_path)


KILLED = """
import os, signal, sys
import tailrace, mlflow

tailrace.install()
run = mlflow.start_run()
print(run.info.run_id, flush=True)
for step in range(500):
    mlflow.log_metric("loss", float(step), step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_of_500_calls_none_is_lost_by_kill_9_and_the_run_is_killed_with_the_reason(
    store_uri: str, tmp_path: Path
) -> None:
    done = script(tmp_path, KILLED, check=False, MLFLOW_TRACKING_URI=store_uri)
    assert done.returncode == -9
    run_id = done.stdout.split()[0]
    run = eventually(lambda: _ended(store_uri, run_id), timeout=60)
    assert run.status == "KILLED"
    assert "disappeared without ending the run" in run.tags["tailrace.end_reason"]
    assert run.history("loss") == [(step, float(step)) for step in range(500)]
    forget(tmp_path)


def _ended(uri: str, run_id: str) -> Store | None:
    run = Store(uri, run_id)
    return None if run.status == "RUNNING" else run


MANY = """
import mlflow, tailrace
from tailrace._runs.ending import Ending
tailrace.install()
client = mlflow.MlflowClient()
runs = [client.create_run("0").info.run_id for _ in range(6)]
for run_id in runs:
    client.log_metric(run_id, "loss", 1.0)
waits, until = [], Ending.until
asked, settling = [], Ending.settling

def noted_until(ending, *args, **options):
    waits.append(len(asked))
    return until(ending, *args, **options)

def noted_settling(ending, *args, **options):
    asked.append(ending)
    return settling(ending, *args, **options)

Ending.until, Ending.settling = noted_until, noted_settling
assert len(client.search_runs(["0"], "metrics.loss = 1")) == 6
print("FIRST", len(asked), waits[0])
asked.clear()
client.search_runs(["0"])
print("SECOND", len(asked))
client.log_metric(runs[0], "loss", 2.0)
print("SEEN", max(run.data.metrics["loss"] for run in client.search_runs(["0"])))
"""


@pytest.mark.slow
def test_a_search_waits_for_all_runs_at_once_and_for_none_where_nothing_is_on_its_way(
    sqlite_uri: str, tmp_path: Path
) -> None:
    done = script(tmp_path, MANY, MLFLOW_TRACKING_URI=sqlite_uri)
    assert [line for line in done.stdout.splitlines() if line.split()[0] in ("FIRST", "SECOND", "SEEN")] == [
        "FIRST 6 6",
        "SECOND 0",
        "SEEN 2.0",
    ]
    forget(tmp_path)


TWICE = """
import mlflow, tailrace
tailrace.install()
with mlflow.start_run() as run:
    mlflow.log_param("lr", 1)
    store = mlflow.MlflowClient()._tracking_client.store
    tailrace.install(background_artifacts=True)
    assert mlflow.MlflowClient()._tracking_client.store is store
    try:
        mlflow.log_param("lr", 2)
    except mlflow.MlflowException:
        print("REFUSED")
"""


@pytest.mark.slow
def test_a_plug_in_that_is_installed_again_knows_what_it_knew(sqlite_uri: str, tmp_path: Path) -> None:
    done = script(tmp_path, TWICE, MLFLOW_TRACKING_URI=sqlite_uri)
    assert "REFUSED" in done.stdout
    forget(tmp_path)
