"""The store plug-in in several processes, or in a kernel's: torchrun, joblib, a notebook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.entry_points import lay_entry_points
from helpers.sdk_tools import command_line, forget, named, script

pytestmark = pytest.mark.services

RANKS = """
import os
import mlflow
import torch.distributed as dist

dist.init_process_group("gloo")
rank = dist.get_rank()
ids = [None]
if rank == 0:
    ids = [mlflow.start_run(run_name="of two ranks").info.run_id]
dist.broadcast_object_list(ids, src=0)
client = mlflow.MlflowClient()
kind = type(client._tracking_client.store).__name__
for step in range(20):
    client.log_metric(ids[0], f"loss/{rank}", float(step), step=step)
client.set_tag(ids[0], f"rank {rank}", kind)
dist.barrier()
if rank == 0:
    mlflow.end_run()
dist.destroy_process_group()
"""


@pytest.mark.parametrize("way", ["install", "run"])
def test_two_ranks_of_torchrun_log_to_one_run(sqlite_uri: str, tmp_path: Path, way: str) -> None:
    pytest.importorskip("torch")
    program = tmp_path / "train.py"
    program.write_text(("import tailrace; tailrace.install()\n" if way == "install" else "") + RANKS)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    (tmp_path / "bin").mkdir()
    start = [sys.executable] if way == "install" else [*command_line(tmp_path / "bin"), "run"]
    places = os.pathsep.join([lay_entry_points(tmp_path), *sys.path])
    environ = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "TAILRACE_DIR": str(tmp_path / "tailrace")}
    environ |= {"MLFLOW_TRACKING_URI": sqlite_uri}
    done = subprocess.run(
        [*start, *launch], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    forget(tmp_path)
    run = named(sqlite_uri, "of two ranks")
    assert run.status == "FINISHED"
    assert {key: len(history) for key, history in run.metrics().items()} == {"loss/0": 20, "loss/1": 20}
    assert {run.tags[f"rank {rank}"] for rank in (0, 1)} == {"TailraceSqlAlchemyStore"}


JOBS = """
import mlflow, tailrace
from joblib import Parallel, delayed

def work(number, run_id):
    import mlflow
    client = mlflow.MlflowClient()
    client.log_metric(run_id, f"job {number}", float(number))
    with mlflow.start_run(run_name=f"of job {number}"):
        mlflow.log_metric("number", number)
    return type(client._tracking_client.store).__name__

if __name__ == "__main__":
    tailrace.install()
    with mlflow.start_run(run_name="of all") as run:
        kinds = Parallel(n_jobs=2)(delayed(work)(number, run.info.run_id) for number in range(4))
    assert set(kinds) == {"TailraceSqlAlchemyStore"}, kinds
"""


def test_workers_of_joblib_log_to_the_run_that_they_are_given_and_to_their_own(sqlite_uri: str, tmp_path: Path) -> None:
    places = os.pathsep.join([lay_entry_points(tmp_path), *sys.path])
    script(tmp_path, JOBS, MLFLOW_TRACKING_URI=sqlite_uri, PYTHONPATH=places)
    forget(tmp_path)
    assert named(sqlite_uri, "of all").metrics() == {f"job {number}": [(0, float(number))] for number in range(4)}
    for number in range(4):
        own = named(sqlite_uri, f"of job {number}")
        assert (own.status, own.metrics()) == ("FINISHED", {"number": [(0, float(number))]})


OF_RAY = """
import mlflow, tailrace

tailrace.install()
import ray

@ray.remote
def work(number, run_id):
    import mlflow
    client = mlflow.MlflowClient()
    for step in range(20):
        client.log_metric(run_id, f"worker {number}", float(step), step=step)
    return type(client._tracking_client.store).__name__

ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
with mlflow.start_run(run_name="of ray") as run:
    kinds = ray.get([work.remote(number, run.info.run_id) for number in range(3)])
assert set(kinds) == {"TailraceSqlAlchemyStore"}, kinds
ray.shutdown()
"""


def test_workers_of_ray_log_to_the_run_that_they_are_given(sqlite_uri: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    places = os.pathsep.join([lay_entry_points(tmp_path), *sys.path])
    script(tmp_path, OF_RAY, MLFLOW_TRACKING_URI=sqlite_uri, PYTHONPATH=places)
    forget(tmp_path)
    run = named(sqlite_uri, "of ray")
    assert {key: len(points) for key, points in run.metrics().items()} == {f"worker {n}": 20 for n in range(3)}
    assert run.status == "FINISHED"


CELLS = (
    "import mlflow, tailrace\ntailrace.install()\nmlflow.set_experiment('notebook')",
    "run = mlflow.start_run(run_name='of a notebook')\nmlflow.log_param('lr', 0.1)",
    "for step in range(20):\n    mlflow.log_metric('loss', 1 / (step + 1), step=step)",
    "1 / 0",
    "tailrace.log(step=20, loss=0.0)\nprint('SEEN', mlflow.get_run(run.info.run_id).data.metrics['loss'])",
    "mlflow.end_run()\nprint('STATUS', mlflow.get_run(run.info.run_id).info.status)",
    "mlflow.start_run(run_name='left open')\nmlflow.log_metric('loss', 1.0)",
)


def test_a_notebook_has_one_run_over_its_cells(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("JUPYTER_PATH", str(_kernel(tmp_path)))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(
        notebook, kernel_name="of-this-test", allow_errors=True, timeout=100, resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = ["".join(output.get("text", output.get("ename", "")) for output in cell.outputs) for cell in notebook.cells]
    assert shown[3] == "ZeroDivisionError"
    assert "SEEN" in shown[4]
    assert "STATUS FINISHED" in shown[5]
    forget(tmp_path)
    run = named(sqlite_uri, "of a notebook")
    assert (run.status, run.params) == ("FINISHED", {"lr": "0.1"})
    assert run.history("loss") == [*((step, 1 / (step + 1)) for step in range(20)), (20, 0.0)]
    assert named(sqlite_uri, "left open").status != "RUNNING"


def _kernel(directory: Path) -> Path:
    """Where Jupyter finds a kernel of this very Python."""
    place = directory / "jupyter" / "kernels" / "of-this-test"
    place.mkdir(parents=True)
    kernel = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "of this test",
        "language": "python",
    }
    (place / "kernel.json").write_text(json.dumps(kernel))
    return directory / "jupyter"
