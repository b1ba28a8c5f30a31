"""Real torchrun, real collectives (gloo): all ranks are one run, also when the job is started anew."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import mlflow
import pytest

from helpers.sdk_tools import Store, forget

pytestmark = pytest.mark.services

PROGRAM = """
import os, signal, sys, time
import torch.distributed as dist
import tailrace as sdk

rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
together = "apart" not in sys.argv

def wait():
    dist.barrier() if together else time.sleep(0.1)

if together:
    dist.init_process_group("gloo")
with sdk.start_run(run_name="gloo", ranks={"loss": "zero", "time": "stats"}) as run:
    for step in range(5):
        sdk.log(step=10 * attempt + step, loss=float(rank), time=float(rank))
        wait()
    if len(sys.argv) > 1 and attempt == 0:
        time.sleep(2 if rank == int(sys.argv[1]) else 0 if together else 60)
        if rank == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
    wait()
if together:
    dist.destroy_process_group()
"""


def torchrun(folder: Path, uri: str, ranks: int, *arguments: str, restarts: int = 0) -> int:
    (folder / "train.py").write_text(textwrap.dedent(PROGRAM))
    environ = {**os.environ, "TAILRACE_DIR": str(folder / "tailrace"), "TAILRACE_TRACKING_URI": uri}
    environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--max-restarts"]
    command += [str(restarts), "--standalone", str(folder / "train.py"), *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, timeout=200, check=False).returncode


def the_run(uri: str, folder: Path) -> Store:
    forget(folder)
    (run,) = mlflow.MlflowClient(uri).search_runs(["0"])
    return Store(uri, run.info.run_id)


@pytest.mark.parametrize("ranks", [2, 8])
def test_all_ranks_are_one_run_with_one_agent(sqlite_uri: str, tmp_path: Path, ranks: int) -> None:
    assert torchrun(tmp_path, sqlite_uri, ranks) == 0
    assert len(list((tmp_path / "tailrace" / "sessions").iterdir())) == 1
    run = the_run(sqlite_uri, tmp_path)
    assert run.status == "FINISHED"
    assert [value for _, value in run.history("loss")] == [0.0] * 5
    assert [value for _, value in run.history("time.max_rank")] == [ranks - 1.0] * 5
    assert "time" not in run.metrics()


@pytest.mark.parametrize("fallen", [0, 1])
def test_a_rank_that_is_killed_ends_the_run_and_is_named(sqlite_uri: str, tmp_path: Path, fallen: int) -> None:
    assert torchrun(tmp_path, sqlite_uri, 2, str(fallen)) != 0
    run = the_run(sqlite_uri, tmp_path)
    assert run.status == "KILLED"
    assert run.tags["tailrace.end_reason"].startswith(f"rank {fallen} (process ")
    assert "was killed by SIGKILL" in run.tags["tailrace.end_reason"]


def test_an_elastic_restart_goes_on_in_the_same_run(sqlite_uri: str, tmp_path: Path) -> None:
    # Without collectives: torch alone fails or hangs in gloo, two times of three, where ranks are started anew at once.
    assert torchrun(tmp_path, sqlite_uri, 2, "1", "apart", restarts=1) == 0
    run = the_run(sqlite_uri, tmp_path)
    assert (run.status, run.tags["tailrace.attempt"]) == ("FINISHED", "1")
    assert sorted(step for step, _ in run.history("loss")) == [*range(5), *range(10, 15)]
