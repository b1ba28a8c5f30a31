"""The scripts for each launcher, as the page on several processes has them: one run, whoever starts the ranks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import yaml

from helpers.sdk_tools import Store, eventually, forget
from services.missing import missing
from services.slurm import slurm
from tailrace import Settings
from tailrace_agent.ipc import status
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus

LAUNCHERS = Path(__file__).parents[2] / "docs" / "examples" / "launchers"

pytestmark = [
    pytest.mark.skipif(not LAUNCHERS.exists(), reason="the tests run outside of the source tree"),
    pytest.mark.services,
    pytest.mark.timeout(300),
]
STATS = {f"train/batch_time_seconds.{what}" for what in ("mean", "min", "max", "max_rank")}


@pytest.fixture
def here(tmp_path: Path, sqlite_uri: str) -> dict[str, str]:
    """The scripts in a directory of their own, with `tailrace`, `torchrun` and `python` of this environment."""
    shutil.copytree(LAUNCHERS, tmp_path / "launchers")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, code in (
        ("python", ""),
        ("tailrace", " -c 'from tailrace_agent.cli import main; main()'"),
        ("torchrun", " -m torch.distributed.run"),
    ):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable}{code} "$@"\n')
        (programs / name).chmod(0o755)
    variables = {"TAILRACE_TRACKING_URI": sqlite_uri, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **variables, "TAILRACE_DIR": str(tmp_path / "tailrace"), "STEPS": "20",
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}  # fmt: skip


def launched(folder: Path, environ: dict[str, str], *command: str) -> None:
    done = subprocess.run(
        command, cwd=folder / "launchers", env=environ, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def the_run(uri: str) -> Store:
    (run,) = mlflow.MlflowClient(uri).search_runs(["0"])
    return Store(uri, run.info.run_id)


def test_torchrun(here: dict[str, str], sqlite_uri: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    launched(tmp_path, here | {"RANKS": "3"}, "sh", "torchrun.sh")
    forget(tmp_path)
    run = the_run(sqlite_uri)
    assert run.status == "FINISHED"
    assert {key: len(found) for key, found in run.metrics().items()} == {"train/loss": 20, **dict.fromkeys(STATS, 20)}


def test_mpirun(here: dict[str, str], sqlite_uri: str, tmp_path: Path) -> None:
    if shutil.which("mpirun") is None:
        missing("Open MPI is missing; on Debian: apt install openmpi-bin")
    root = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    launched(tmp_path, here | root | {"RANKS": "3"}, "sh", "mpirun.sh")
    forget(tmp_path)
    run = the_run(sqlite_uri)
    assert run.status == "FINISHED"
    assert {key: len(found) for key, found in run.metrics().items()} == {"train/loss": 20, **dict.fromkeys(STATS, 20)}


@pytest.mark.parametrize("named", [True, False])
def test_slurm_with_two_nodes(here: dict[str, str], sqlite_uri: str, tmp_path: Path, named: bool) -> None:
    """By the script, and by the step alone. Both nodes are on this machine, so each is given a state of its own."""
    (tmp_path / "launchers" / "task.py").write_text(
        "import os, runpy\n"
        f"os.environ['TAILRACE_DIR'] = '{tmp_path}/node' + os.environ['SLURM_NODEID'] + '/tailrace'\n"
        + ("" if named else "del os.environ['TAILRACE_JOB']\n")
        + "runpy.run_path('train.py')\n"
    )
    (tmp_path / "slurm").mkdir()
    with slurm(tmp_path / "slurm") as variables:
        options = ["--nodes=2", "--ntasks-per-node=2", "--wait", f"--output={tmp_path / 'out'}", "slurm.sh"]
        environ = here | variables | {"TRAIN": "task.py"}
        launched(tmp_path, environ, "sbatch", *options)
    for node in (0, 1):
        forget(tmp_path / f"node{node}")
    run = the_run(sqlite_uri)
    assert run.status == "FINISHED", (tmp_path / "out").read_text()
    assert {key: len(found) for key, found in run.metrics().items()} == {
        "train/loss": 20,
        **{f"{key}/node{node}": 20 for key in STATS for node in (0, 1)},
    }
    assert {"tailrace.ledger", "tailrace.ledger.node1"} <= run.tags.keys()


def _manifest() -> dict[str, Any]:
    text = (LAUNCHERS / "kubernetes.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)["spec"]["template"]["spec"]
    return found


def test_kubernetes_stop_hook_delivers_what_the_training_has_left(
    here: dict[str, str], sqlite_uri: str, tmp_path: Path
) -> None:
    """The commands of the manifest, without a cluster: the container's end takes its agent along, in the middle."""
    pytest.importorskip("torch")
    spec = _manifest()
    (train,), (sidecar,) = spec["containers"], spec["initContainers"]
    assert train["volumeMounts"] == sidecar["volumeMounts"]
    assert {mount["mountPath"] for mount in train["volumeMounts"]} == {"/dev/shm", "/state"}
    environ = here | {"TAILRACE_JOB": "night-7", "JOB_COMPLETION_INDEX": "0", "STEPS": "100000"}
    smaller = {"--nnodes=2": "--nnodes=1", "--nproc-per-node=8": "--nproc-per-node=2",
               "--master-addr=night-7-0.night-7": "--master-addr=127.0.0.1"}  # fmt: skip
    command = [smaller.get(part, part).replace("$(JOB_COMPLETION_INDEX)", "0") for part in train["command"]]
    container = subprocess.Popen(command, cwd=tmp_path / "launchers", env=environ)
    try:
        eventually(lambda: mlflow.MlflowClient(sqlite_uri).search_runs(["0"]), 100)
        (session,) = Session.all(Settings(dir=str(tmp_path / "tailrace")))
        agent = eventually(lambda: status.read(session.shared / "agent.status", AgentStatus))
        assert agent is not None
        inside = [psutil.Process(agent.pid), *psutil.Process(container.pid).children(recursive=True)]
        for process in inside:
            process.kill()
    finally:
        container.kill()
        container.wait()
    launched(tmp_path, environ, *sidecar["lifecycle"]["preStop"]["exec"]["command"])
    run = the_run(sqlite_uri)
    assert run.status == "KILLED"
    assert "rank" in run.tags["tailrace.end_reason"]
    assert len(run.history("train/loss")) > 1
