"""The machine is measured once a node, whatever the number of ranks, and under its name where there are several."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from helpers.ranks import launch, start
from helpers.sdk_tools import Store, forget

pytestmark = pytest.mark.slow

TRAIN = """
import os, time
import tailrace as sdk

os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["LOCAL_RANK"]
run = sdk.start_run(log_system_metrics=True, system_metrics_interval=0.2)
sdk.log(step=0, loss=1.0)
time.sleep(2)
sdk.end_run()
print(run.id)
"""


def the_run(uri: str) -> Store:
    (run,) = mlflow.MlflowClient(uri).search_runs(["0"])
    return Store(uri, run.info.run_id)


def test_four_ranks_of_a_node_are_measured_together_and_once(sqlite_uri: str, tmp_path: Path) -> None:
    code, _, err = launch(tmp_path, TRAIN, ranks=4, TAILRACE_TRACKING_URI=sqlite_uri)
    assert code == 0, err
    forget(tmp_path)
    run = the_run(sqlite_uri)
    steps = [step for step, _ in run.history("system/cpu_utilization_percentage")]
    assert steps == sorted(set(steps)), "one sampler counts"
    assert max(value for _, value in run.history("system/process_children_count")) >= 4, "that of all, and not of one"
    assert run.status == "FINISHED"


def test_nodes_are_measured_under_their_names(sqlite_uri: str, tmp_path: Path) -> None:
    options = {"nodes": 2, "run_id": "0f8fad5b-d9cb-469f-a165-70867728950f", "TAILRACE_TRACKING_URI": sqlite_uri}
    launchers = [start(tmp_path / f"node{node}", TRAIN, node=node, **options) for node in (0, 1)]  # type: ignore[arg-type]
    said = [launcher.communicate(timeout=100) for launcher in launchers]
    assert len({run for out, _ in said for run in out.split()}) == 1, said
    for node in (0, 1):
        forget(tmp_path / f"node{node}")
    run = the_run(sqlite_uri)
    groups = {"/".join(key.split("/")[:-1]) for key in run.metrics()}
    assert groups == {"", "system/node0", "system/node1"}
    assert run.status == "FINISHED"


def test_a_node_whose_name_is_none_for_a_metric_is_measured_under_another_one(sqlite_uri: str, tmp_path: Path) -> None:
    options = {"TAILRACE_TRACKING_URI": sqlite_uri, "TAILRACE_SYSTEM_METRICS_NODE": "gpu box #3"}
    code, _, err = launch(tmp_path, TRAIN, ranks=2, **options)
    assert code == 0, err
    assert "this machine is called 'gpu-box-3': 'gpu box #3' cannot be a part of a metric's name" in err
    forget(tmp_path)
    assert "system/gpu-box-3/cpu_utilization_percentage" in the_run(sqlite_uri).metrics()
