"""Real Ray: tasks and actors log to the run of their driver, whichever was there first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from helpers.sdk_tools import Store, forget

pytest.importorskip("ray")
pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

PROGRAM = """
import os, sys
import ray
import tailrace as sdk

start = dict(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
if sys.argv[1] == "ray first":
    ray.init(**start)
    run = sdk.start_run(run_name="driver")
else:
    run = sdk.start_run(run_name="driver")
    ray.init(**start)

@ray.remote
def task(n):
    sdk.log(step=n, task=float(n))
    sdk.flush(timeout=30)

@ray.remote
class Actor:
    def work(self, n):
        sdk.log(step=n, actor=float(n))
        sdk.flush(timeout=30)

@ray.remote(num_cpus=2)
def leaves(name):
    sdk.start_run(run_name=name, nested=False)
    sdk.log(step=0, x=1.0)
    sdk.flush(timeout=30)

ray.get([task.remote(n) for n in range(4)])
actor = Actor.remote()
ray.get([actor.work.remote(n) for n in range(3)])
ray.kill(actor)
for name in ("one", "two"):
    ray.get(leaves.remote(name))
sdk.end_run()
ray.shutdown()
"""


@pytest.mark.parametrize("order", ["ray first", "run first"])
def test_tasks_and_actors_log_to_the_run_of_their_driver(sqlite_uri: str, tmp_path: Path, order: str) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    environ = {**os.environ, "TAILRACE_DIR": str(tmp_path / "tailrace"), "TAILRACE_TRACKING_URI": sqlite_uri}
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "train.py", order], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=250,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    forget(tmp_path)
    runs = {run.info.run_name: run for run in mlflow.MlflowClient(sqlite_uri).search_runs(["0"])}
    assert sorted(runs) == ["driver", "one", "two"]
    store = Store(sqlite_uri, runs["driver"].info.run_id)
    assert (len(store.history("task")), len(store.history("actor"))) == (4, 3)
    assert store.status == runs["one"].info.status == "FINISHED"
