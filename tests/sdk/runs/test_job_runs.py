"""All ranks of a job are one run with one agent, and its status is the job's. Real processes, a real MLflow."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from helpers.ranks import launch, start
from helpers.sdk_tools import Store, eventually, forget
from tailrace import Settings
from tailrace._runs.job_runs import node_name
from tailrace_agent.hosts.spawn import request_exit
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus, read
from tailrace_agent.runtime.job import Job

pytestmark = pytest.mark.slow

TRAIN = """
import os, signal, sys, time
import tailrace as sdk

rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
run = sdk.start_run(run_name="all")
sdk.log_params({"lr": 0.1, f"only/{rank}": rank})
sdk.set_tag(f"rank{rank}", "here")
for step in range(10):
    sdk.log(step=10 * attempt + step, loss=rank + 0.5)
"""
FALLS = f"{TRAIN}time.sleep(2)\n"
"""The same, and what comes next happens before the eyes of the agent."""


def runs(uri: str) -> list[Store]:
    return [Store(uri, run.info.run_id) for run in mlflow.MlflowClient(uri).search_runs(["0"])]


def the_run(uri: str, directory: Path) -> Store:
    """The only run there is, once its agent has left."""
    forget(directory)
    (run,) = runs(uri)
    return run


def sessions(directory: Path) -> list[str]:
    return [path.name for path in (directory / "tailrace" / "sessions").iterdir()]


def test_four_ranks_are_one_run_with_one_agent_and_the_values_of_rank_zero(sqlite_uri: str, tmp_path: Path) -> None:
    code, out, err = launch(tmp_path, TRAIN + "sdk.end_run()\nprint(run.id)", ranks=4, TAILRACE_TRACKING_URI=sqlite_uri)
    assert code == 0, err
    assert len(out.split()) == 4
    assert len(set(out.split())) == 1
    assert len(sessions(tmp_path)) == 1
    assert err.count("tailrace: run 'all'") == 1, "only rank 0 speaks"
    run = the_run(sqlite_uri, tmp_path)
    assert (run.status, len(run.history("loss")), {value for _, value in run.history("loss")}) == (
        "FINISHED",
        10,
        {0.5},
    )
    assert run.params == {"lr": "0.1", "only/0": "0"}
    assert [tag for tag in run.tags if tag.startswith("rank")] == ["rank0"]
    assert "tailrace.end_reason" not in run.tags


@pytest.mark.parametrize("fallen", [0, 2])
def test_a_rank_that_is_killed_is_named_with_its_signal(sqlite_uri: str, tmp_path: Path, fallen: int) -> None:
    code = f"{FALLS}if rank == {fallen}: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)"
    assert launch(tmp_path, code, ranks=3, TAILRACE_TRACKING_URI=sqlite_uri)[0] == 1
    run = the_run(sqlite_uri, tmp_path)
    assert run.status == "KILLED"
    assert run.tags["tailrace.end_reason"].startswith(f"rank {fallen} (process ")
    assert "was killed by SIGKILL; after it ranks " in run.tags["tailrace.end_reason"]
    assert len(run.history("loss")) == 10


@pytest.mark.parametrize(
    ("error", "named"), [("ValueError('it diverges')", "ValueError: it diverges"), ("EOFError", "EOFError (its")]
)
def test_a_rank_that_fails_is_named_with_its_error(sqlite_uri: str, tmp_path: Path, error: str, named: str) -> None:
    code = f"{FALLS}if rank == 1: raise {error}\ntime.sleep(60)"
    assert launch(tmp_path, code, ranks=2, TAILRACE_TRACKING_URI=sqlite_uri)[0] == 1
    run = the_run(sqlite_uri, tmp_path)
    assert run.status == "FAILED"
    assert f"failed: {named}" in run.tags["tailrace.end_reason"]
    assert "error.type" not in run.tags, "that would be rank 0's"


def test_an_exit_code_makes_a_run_failed_that_rank_zero_has_called_finished(sqlite_uri: str, tmp_path: Path) -> None:
    code = f"{FALLS}sdk.end_run()\nif rank == 1: sys.exit(3)\ntime.sleep(60)"
    assert launch(tmp_path, code, ranks=2, TAILRACE_TRACKING_URI=sqlite_uri)[0] == 1
    run = the_run(sqlite_uri, tmp_path)
    assert run.status == "FAILED"
    assert "rank 1 " in run.tags["tailrace.end_reason"]
    assert "ended with exit code 3" in run.tags["tailrace.end_reason"]


@pytest.mark.parametrize("fallen", [0, 1])
def test_a_job_that_its_launcher_starts_anew_goes_on_in_its_run(sqlite_uri: str, tmp_path: Path, fallen: int) -> None:
    code = f"{TRAIN}open(f'rank{{rank}}', 'w')\nwhile not os.path.exists(f'rank{{1 - rank}}'): time.sleep(0.1)\n"
    code += f"if rank == {fallen} and not attempt: os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "elif not attempt: time.sleep(60)"
    done = launch(tmp_path, code, ranks=2, restarts=1, TAILRACE_TRACKING_URI=sqlite_uri)
    assert done[0] == 0, done
    assert len(sessions(tmp_path)) == 1
    run = the_run(sqlite_uri, tmp_path)
    assert (run.status, run.tags["tailrace.attempt"]) == ("FINISHED", "1")
    assert run.tags.get("tailrace.end_reason", "none").startswith("none")
    assert [step for step, _ in run.history("loss")] == list(range(20))


def test_a_rank_that_comes_late_is_in_the_run_of_the_others(sqlite_uri: str, tmp_path: Path) -> None:
    code = "import os, time\nif os.environ['RANK'] == '1': time.sleep(3)\n" + TRAIN + "sdk.end_run()\nprint(run.id)"
    code, out, err = launch(tmp_path, code, TAILRACE_TRACKING_URI=sqlite_uri)
    assert (code, len(set(out.split()))) == (0, 1), err
    assert the_run(sqlite_uri, tmp_path).status == "FINISHED"


def test_two_launches_one_after_another_are_two_runs(sqlite_uri: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert launch(tmp_path, TRAIN, TAILRACE_TRACKING_URI=sqlite_uri)[0] == 0
    forget(tmp_path)
    assert [run.status for run in runs(sqlite_uri)] == ["FINISHED", "FINISHED"]


def test_two_runs_of_one_name_are_two_runs_in_all_ranks(sqlite_uri: str, tmp_path: Path) -> None:
    code = """
    import tailrace as sdk
    for _ in range(2):
        with sdk.start_run(run_name="same") as run:
            sdk.log(loss=1.0)
        print(run.id)
    """
    code, out, err = launch(tmp_path, code, TAILRACE_TRACKING_URI=sqlite_uri)
    assert (code, len(set(out.split()))) == (0, 2), err
    forget(tmp_path)
    assert [run.status for run in runs(sqlite_uri)] == ["FINISHED", "FINISHED"]


def test_a_named_job_that_is_started_anew_goes_on_in_its_run(sqlite_uri: str, tmp_path: Path) -> None:
    code = TRAIN.replace('"all"', '"all", job="night"')
    for _ in range(2):
        assert launch(tmp_path, code, ranks=1, TAILRACE_TRACKING_URI=sqlite_uri)[0] == 0
        forget(tmp_path)
    (run,) = runs(sqlite_uri)
    assert (run.status, len(run.history("loss"))) == ("FINISHED", 20)


def test_two_nodes_are_one_run_with_a_ledger_each(sqlite_uri: str, tmp_path: Path) -> None:
    options = {"nodes": 2, "run_id": "0f8fad5b-d9cb-469f-a165-70867728950e", "TAILRACE_TRACKING_URI": sqlite_uri}
    code = TRAIN.replace("run = sdk", "time.sleep(rank == 0)\nrun = sdk") + "sdk.end_run()\nprint(run.id)"
    options["TAILRACE_RANKS"] = "each"
    launchers = [start(tmp_path / f"node{node}", code, node=node, **options) for node in (1, 0)]  # type: ignore[arg-type]
    said = [launcher.communicate(timeout=100) for launcher in launchers]
    assert len({run for out, _ in said for run in out.split()}) == 1, said
    for node in (0, 1):
        forget(tmp_path / f"node{node}")
    (run,) = runs(sqlite_uri)
    assert run.status == "FINISHED"
    assert {"tailrace.ledger", "tailrace.ledger.node1"} <= run.tags.keys()
    assert {key: len(found) for key, found in run.metrics().items()} == {f"loss/rank{rank}": 10 for rank in range(4)}


@pytest.mark.parametrize("rank_zero", ["fails", "has finished"])
def test_a_rank_that_falls_on_another_node_is_named_by_the_runs_end(
    sqlite_uri: str, tmp_path: Path, rank_zero: str
) -> None:
    options = {"nodes": 2, "run_id": "0f8fad5b-d9cb-469f-a165-70867728950d", "TAILRACE_TRACKING_URI": sqlite_uri}
    falls = "if rank == 2: os.kill(os.getpid(), signal.SIGKILL)"
    if rank_zero == "fails":
        code = f"{FALLS}{falls}\ntime.sleep(3)\nif rank < 2: raise ConnectionError('peer is gone')\ntime.sleep(60)"
    else:
        code = f"{FALLS}if rank < 2: sdk.end_run()\nelse: time.sleep(3)\n{falls}\nif rank == 3: time.sleep(60)"
    launchers = [start(tmp_path / f"node{node}", code, node=node, **options) for node in (0, 1)]  # type: ignore[arg-type]
    for launcher in launchers:
        launcher.communicate(timeout=100)
    for node in (0, 1):
        forget(tmp_path / f"node{node}")
    (run,) = runs(sqlite_uri)
    assert run.status == "KILLED"
    assert run.tags["tailrace.end_reason"].startswith("rank 2 (process ")
    assert "node1) was killed by SIGKILL" in run.tags["tailrace.end_reason"]
    if rank_zero == "fails":
        assert "; on other nodes: rank " in run.tags["tailrace.end_reason"]
        assert "failed: ConnectionError: peer is gone" in run.tags["tailrace.end_reason"]


LAGS = """
import os, time
import tailrace as sdk

rank = int(os.environ["RANK"])
run = sdk.start_run(ranks="stats")
time.sleep(1)
for step in range(200):
    if step == 100 and rank == 1:
        while not os.path.exists("out"):  # what rank 0 has said meanwhile goes out without this one
            time.sleep(0.05)
        open("late", "w")
        time.sleep(2)
    sdk.log(step=step, x=float(step + rank))
    time.sleep(0.02)
sdk.end_run()
"""


def runs_of(uri: str) -> Callable[[], list[Store]]:
    return lambda: runs(uri)


def is_out(uri: str, directory: Path) -> bool:
    """Whether the statistics of the step that one rank is late with have gone out: then it goes on."""
    if any(step == 100 for run in runs(uri) for step, _ in run.metrics().get("x.mean", ())):
        (directory / "out").touch()
    return (directory / "late").exists()


def test_an_agent_that_is_killed_in_the_middle_of_statistics_sends_each_once(sqlite_uri: str, tmp_path: Path) -> None:
    with start(tmp_path, LAGS, TAILRACE_TRACKING_URI=sqlite_uri) as launcher:
        killed: set[int] = set()
        (session,) = eventually(lambda: list(Session.all(Settings(dir=str(tmp_path / "tailrace")))))

        def agent() -> int:
            found = read(session.shared / "agent.status", AgentStatus) if session.agent_alive() else None
            return found.pid if found is not None and found.pid not in killed else 0  # it is that of the one before

        for ready in (runs_of(sqlite_uri), lambda: is_out(sqlite_uri, tmp_path)):
            eventually(ready, 60)
            found = eventually(agent)
            os.kill(found, signal.SIGKILL)
            killed.add(found)
        assert launcher.wait(100) == 0, launcher.communicate()
    run = the_run(sqlite_uri, tmp_path)
    assert {key: sorted(step for step, _ in values) for key, values in run.metrics().items()} == {
        f"x.{what}": list(range(200)) for what in ("mean", "min", "max", "max_rank")
    }
    means = dict(run.history("x.mean"))
    assert all(means[step] == step + 0.5 for step in range(100))
    assert json.loads(run.tags["tailrace.ledger"])["dropped"].keys() == {"after its step's statistics"}


def test_ranks_train_on_while_the_server_is_away(tmp_path: Path) -> None:
    began = time.monotonic()
    code = f"{TRAIN}sdk.end_run(timeout=0)"
    assert launch(tmp_path, code, TAILRACE_TRACKING_URI="http://127.0.0.1:9")[0] == 0
    assert time.monotonic() - began < 30
    (session,) = sessions(tmp_path)
    log = tmp_path / "tailrace" / "sessions" / session / "agent.log"
    eventually(lambda: log.exists() and "store unavailable" in log.read_text())
    (found,) = Session.all(Settings(dir=str(tmp_path / "tailrace")))
    request_exit(found)
    forget(tmp_path)


def test_a_child_of_a_rank_is_no_rank(sqlite_uri: str, tmp_path: Path) -> None:
    code = (
        TRAIN
        + """
if rank == 0 and len(sys.argv) == 1:
    import subprocess
    code = "import tailrace as s\\nwith s.start_run(run_name='below'): s.log(x=1.0)"
    subprocess.run([sys.executable, "-c", code], check=True)
"""
    )
    assert launch(tmp_path, code, TAILRACE_TRACKING_URI=sqlite_uri)[0] == 0
    forget(tmp_path)
    assert sorted(run.tags["mlflow.runName"] for run in runs(sqlite_uri)) == ["all", "below"]


@pytest.mark.parametrize(("host", "name"), [("gpu box #3", "gpu-box-3"), ("a/b", "a-b"), ("..", "node")])
def test_a_node_is_called_what_a_metric_may_be_called(host: str, name: str) -> None:
    assert node_name(Job(key="k"), host) == name


BATCHES = """
import os, time
import tailrace as sdk

rank = int(os.environ["RANK"])
run = sdk.start_run()
time.sleep(2)  # all are there
for step in range(20):
    sdk.log({"train/batch_time_seconds": 0.1 + (rank == 2), "loss": 1.0}, step=step)
    sdk.log({"other": 2.0}, step=step)
sdk.end_run()
"""


def test_the_batch_times_of_all_ranks_are_there_and_name_the_slowest(sqlite_uri: str, tmp_path: Path) -> None:
    rule = {"TAILRACE_ALERTS": "rank slower than 2 times the fastest"}
    done = launch(tmp_path, BATCHES, ranks=4, TAILRACE_TRACKING_URI=sqlite_uri, **rule)
    assert done[0] == 0, done
    run = the_run(sqlite_uri, tmp_path)
    names = {f"train/batch_time_seconds.{what}" for what in ("mean", "min", "max", "max_rank")}
    assert {key: len(values) for key, values in run.metrics().items()} == {
        **dict.fromkeys(names, 20),
        "loss": 20,
        "other": 20,
    }
    assert {value for _, value in run.history("train/batch_time_seconds.max_rank")} == {2.0}
    assert {round(value, 3) for _, value in run.history("train/batch_time_seconds.mean")} == {0.35}
    assert "rank 2 takes 1.1 s a batch, 11 times the fastest" in run.tags["tailrace.alert.001"]


@pytest.mark.parametrize(
    "fate", ["", "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)", "if rank == 1: raise ValueError('no')"]
)
def test_each_rank_may_have_a_nested_run_of_its_own(sqlite_uri: str, tmp_path: Path, fate: str) -> None:
    options = {"TAILRACE_TRACKING_URI": sqlite_uri, "TAILRACE_RANKS": "loss=runs"}
    code = (
        f"{TRAIN}sdk.log(step=0, other=1.0)\ntime.sleep(2)\n{fate}\ntime.sleep({2 if not fate else 60})\nsdk.end_run()"
    )
    done = launch(tmp_path, code, ranks=3, **options)
    assert done[0] == (1 if fate else 0), done
    forget(tmp_path)
    found = {run.tags["mlflow.runName"]: run for run in runs(sqlite_uri)}
    assert set(found) == {"all", "rank1", "rank2"}
    for name, value in (("all", 0.5), ("rank1", 1.5), ("rank2", 2.5)):
        assert {value for _, value in found[name].history("loss")} == {value}
        assert len(found[name].history("loss")) == 10
    assert set(found["all"].metrics()) == {"loss", "other"}
    assert set(found["rank1"].metrics()) == {"loss"}
    assert {found[name].tags["mlflow.parentRunId"] for name in ("rank1", "rank2")} == {found["all"].run_id}
    if not fate:
        assert {run.status for run in found.values()} == {"FINISHED"}
    elif "kill" in fate:
        assert (found["all"].status, found["rank1"].status) == ("KILLED", "KILLED")
        assert "was killed by SIGKILL" in found["rank1"].tags["tailrace.end_reason"]
        assert "rank 2" in found["rank2"].tags["tailrace.end_reason"], "its launcher has stopped it"
    else:
        assert (found["all"].status, found["rank1"].status) == ("FAILED", "FAILED")
        assert "failed: ValueError: no" in found["rank1"].tags["tailrace.end_reason"]


def test_who_wants_rank_zeros_batch_time_alone_has_it_under_its_name(sqlite_uri: str, tmp_path: Path) -> None:
    done = launch(tmp_path, BATCHES, ranks=2, TAILRACE_TRACKING_URI=sqlite_uri, TAILRACE_RANKS="zero")
    assert done[0] == 0, done
    found = the_run(sqlite_uri, tmp_path).metrics()
    assert {key: len(values) for key, values in found.items()} == dict.fromkeys(
        ("train/batch_time_seconds", "loss", "other"), 20
    )


def test_a_node_that_is_counted_is_called_by_its_number() -> None:
    assert node_name(Job(key="k", node=3), None) == "node3"


if sys.platform != "linux":
    del test_a_rank_that_is_killed_is_named_with_its_signal  # who was killed of what only Linux tells


def test_statistics_of_all_ranks_stand_in_the_place_of_their_values(sqlite_uri: str, tmp_path: Path) -> None:
    options = {"TAILRACE_TRACKING_URI": sqlite_uri, "TAILRACE_RANKS": "loss=stats,every*=each"}
    done = launch(tmp_path, f"{TRAIN}sdk.log(step=0, every=1.0, other=2.0)\nsdk.end_run()", ranks=4, **options)
    assert done[0] == 0, done
    run = the_run(sqlite_uri, tmp_path)
    found = run.metrics()
    assert {key: len(values) for key, values in found.items()} == {
        **{f"loss.{what}": 10 for what in ("mean", "min", "max", "max_rank")},
        **{f"every/rank{rank}": 1 for rank in range(4)},
        "other": 1,
    }
    assert {value for _, value in found["loss.mean"]} == {2.0}
    assert {value for _, value in found["loss.max_rank"]} == {3.0}
    assert run.status == "FINISHED"
