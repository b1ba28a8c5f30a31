"""`tailrace hpo`: worker processes over one storage, killed, interrupted, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from mlflow import MlflowClient

from helpers.sdk_tools import Store, command_line, eventually, forget
from tailrace.hpo.storage import open_storage

OBJECTIVE = """
    import os, time
    import tailrace as sdk

    if "TOLD" in os.environ:  # dies when Optuna has heard of a trial's end, and MLflow has not
        from tailrace.hpo.trials import TrialRuns

        told = TrialRuns.told

        def die(runs, study, trial):
            if str(trial.number) in os.environ["TOLD"].split(","):
                os.kill(os.getpid(), 9)
            told(runs, study, trial)

        TrialRuns.told = die

    def objective(trial, params):
        for step in range(3):
            sdk.log(step=step, loss=params["x"])
        if trial.number == int(os.environ.get("PRUNED", -1)):
            import optuna
            trial.report(1.0, 2)
            raise optuna.TrialPruned
        if trial.number == int(os.environ.get("KILLED", -1)):
            os.kill(os.getpid(), 9)
        if trial.number == int(os.environ.get("FAILED", -1)):
            raise ValueError("it diverges")
        open(f"began-{trial.number}", "w").close()
        time.sleep(float(os.environ.get("TAKES", 0)))
        return params["x"]

    def space(trial):
        return {"x": trial.suggest_float("x", 0, 1)}
"""


@pytest.fixture
def search(tmp_path: Path, sqlite_uri: str) -> Callable[..., subprocess.Popen[str]]:
    """Starts `tailrace hpo` on a configuration."""
    (tmp_path / "train.py").write_text(textwrap.dedent(OBJECTIVE))
    config = {
        "mlflow": {"tracking_uri": sqlite_uri, "experiment_name": "found"},
        "hpo": {
            "study_name": "digits",
            "objective": "train.py:objective",
            "metric": "acc",
            "n_trials": 6,
            "search_space": {"x": {"type": "float", "low": 0, "high": 1}},
        },
    }
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(config))

    (tmp_path / "bin").mkdir()
    command = command_line(tmp_path / "bin")

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "hpo", "digits.yaml", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **variables},
            start_new_session=True,
        )

    return start


def _ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def _runs(uri: str, experiment: str = "found") -> tuple[Store, dict[str, Store]]:
    """The one parent, and the trials below it by their names."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    stores = [Store(uri, run.info.run_id) for run in client.search_runs([found.experiment_id])]
    (parent,) = [store for store in stores if "mlflow.parentRunId" not in store.tags]
    assert {store.tags["mlflow.parentRunId"] for store in stores if store is not parent} <= {parent.run_id}
    return parent, {store.tags["mlflow.runName"]: store for store in stores if store is not parent}


def _settled(uri: str, least: int = 1) -> tuple[Store, dict[str, Store]]:
    """The same, once there are so many trials, and nothing is RUNNING."""

    def look() -> Any:
        # An agent creates the experiment, then the parent, then the trials.
        found = MlflowClient(uri).get_experiment_by_name("found")
        if found is None or not MlflowClient(uri).search_runs([found.experiment_id]):
            return None
        parent, children = _runs(uri)
        over = all(store.status != "RUNNING" for store in (parent, *children.values()))
        return (parent, children) if over and len(children) >= least else None

    found: tuple[Store, dict[str, Store]] = eventually(look, 60)
    return found


@pytest.mark.slow
def test_two_workers_share_a_study_and_a_worker_that_is_killed_is_no_matter_of_the_other(
    search: Callable[..., subprocess.Popen[str]], sqlite_uri: str, tmp_path: Path
) -> None:
    code, out, err = _ended(search("--workers", "2", KILLED="2", FAILED="3"))
    assert code == 0, err
    assert "was ended by SIGKILL; its trial is FAIL, the others go on" in out
    assert "digits: 6 trials, 4 completed, 0 pruned, 2 failed" in out
    assert sum(line.startswith("trial ") for line in out.splitlines()) == 6
    parent, children = _settled(sqlite_uri)
    assert {name: child.status for name, child in children.items()} == {
        "trial_0000": "FINISHED",
        "trial_0001": "FINISHED",
        "trial_0002": "KILLED",
        "trial_0003": "FAILED",
        "trial_0004": "FINISHED",
        "trial_0005": "FINISHED",
    }
    assert len(children["trial_0002"].history("loss")) == 3
    assert parent.status == "FINISHED"
    assert parent.run.data.metrics["total_trials"] == 6
    assert parent.run.data.metrics["failed_trials"] == 2
    assert parent.artifacts()[-1] == "hpo_trials_history.csv"
    study = optuna.load_study(study_name="digits", storage=open_storage(tmp_path / "digits.journal"))
    assert [trial.state.name for trial in study.trials].count("FAIL") == 2
    # The same command, with more trials: the same run.
    code, out, err = _ended(search("n_trials=7", "--json"))
    assert code == 0, err
    shown = json.loads(out)
    assert shown["parent_run_id"] == parent.run_id
    assert shown["counts"] == {"total": 7, "completed": 5, "pruned": 0, "failed": 2, "running": 0}
    again, children = _settled(sqlite_uri)
    assert (again.run_id, again.status, len(children)) == (parent.run_id, "FINISHED", 7)
    forget(tmp_path)


@pytest.mark.slow
def test_a_trial_whose_worker_was_killed_when_it_was_over_ends_in_mlflow_as_in_the_study(
    search: Callable[..., subprocess.Popen[str]], sqlite_uri: str, tmp_path: Path
) -> None:
    code, out, err = _ended(search("--workers", "2", TOLD="1,3", PRUNED="3"))
    assert code == 0, err
    assert out.count("was ended by SIGKILL") == 2
    assert "its trial is FAIL" not in out
    assert "digits: 6 trials, 5 completed, 1 pruned, 0 failed" in out
    parent, children = _settled(sqlite_uri, least=6)
    assert {child.status for child in (parent, *children.values())} == {"FINISHED"}
    states = {name: child.tags["trial.state"] for name, child in children.items()}
    assert states.pop("trial_0003") == "PRUNED"
    assert set(states.values()) == {"COMPLETE"}
    assert children["trial_0003"].tags["trial.pruned"] == "at step 2"
    assert not any("tailrace.end_reason" in child.tags for child in children.values())
    forget(tmp_path)


@pytest.mark.slow
def test_ctrl_c_ends_trials_and_search_and_says_so(
    search: Callable[..., subprocess.Popen[str]], sqlite_uri: str, tmp_path: Path
) -> None:
    running = search("--workers", "2", TAKES="60")
    eventually(lambda: len(list(tmp_path.glob("began-*"))) == 2, 60)
    os.killpg(running.pid, signal.SIGINT)
    code, _, err = _ended(running)
    assert code == 130, err
    assert "Traceback" not in err
    parent, children = _settled(sqlite_uri)
    assert parent.status == "KILLED"
    assert {child.status for child in children.values()} == {"KILLED"}
    assert parent.run.data.metrics["failed_trials"] == 2
    forget(tmp_path)


@pytest.mark.faults
def test_a_search_that_was_killed_as_a_whole_is_gone_on_with_in_the_same_run(
    search: Callable[..., subprocess.Popen[str]], sqlite_uri: str, tmp_path: Path
) -> None:
    running = search("--workers", "2", TAKES="3")
    eventually(lambda: len(list(tmp_path.glob("began-*"))) >= 2, 60)
    (searcher,) = _below(running.pid, "tailrace.hpo")
    for pid in (searcher, *_below(searcher, "tailrace.hpo.worker"), running.pid):
        os.kill(pid, signal.SIGKILL)
    running.communicate()
    killed, children = _settled(sqlite_uri, least=2)
    assert killed.status == "KILLED"
    assert {child.status for child in children.values()} == {"KILLED"}
    code, out, err = _ended(search("--workers", "2"))
    assert code == 0, err
    parent, children = _settled(sqlite_uri)
    assert (parent.run_id, parent.status) == (killed.run_id, "FINISHED")
    assert len(children) == 6
    assert "6 trials, 4 completed, 0 pruned, 2 failed" in out
    forget(tmp_path)


def _below(pid: int, what: str) -> list[int]:
    """Children that run a module; the agent is none of them."""
    return [child.pid for child in psutil.Process(pid).children() if what in " ".join(child.cmdline())]


@pytest.mark.slow
def test_workers_that_all_die_before_a_trial_end_the_search_and_not_never(
    search: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("import os\nos.kill(os.getpid(), 9)\ndef objective(trial, params): ...\n")
    code, out, err = _ended(search("--workers", "2", TAILRACE_ENABLED="false"))
    assert code == 1, err
    assert "digits: 0 trials" in out
    assert 2 <= out.count("was ended by SIGKILL") <= 6
    forget(tmp_path)


@pytest.mark.slow
def test_workers_that_cannot_start_make_the_search_fail(
    search: Callable[..., subprocess.Popen[str]], sqlite_uri: str, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("objective = 3\n")
    code, _, err = _ended(search("--workers", "2"))
    assert code == 1, err
    assert "no trial has begun: no worker could start" in err
    client = MlflowClient(sqlite_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("found").experiment_id])
    assert (run.info.status, run.data.tags["error.type"]) == ("FAILED", "TailraceError")
    forget(tmp_path)


@pytest.mark.slow
def test_a_space_may_be_a_function_of_a_module(
    search: Callable[..., subprocess.Popen[str]], sqlite_uri: str, tmp_path: Path
) -> None:
    code, out, err = _ended(search("n_trials=1", "search_space=train.py:space", "objective=train:objective"))
    assert code == 0, err
    assert "1 completed" in out
    forget(tmp_path)


@pytest.mark.slow
def test_a_search_that_is_asked_to_stop_stops_all_its_workers_and_can_be_gone_on_with(
    search: Callable[..., subprocess.Popen[str]], sqlite_uri: str, tmp_path: Path
) -> None:
    (tmp_path / "digits.yaml").write_text((tmp_path / "digits.yaml").read_text().replace("n_trials: 6", "n_trials: 40"))
    process = search("--workers", "2", TAKES="0.5", TAILRACE_STOP_INTERVAL="0.1")
    eventually(lambda: len(list(tmp_path.glob("began-*"))) >= 2, timeout=120)
    client = MlflowClient(sqlite_uri)
    everywhere = [str(n) for n in range(5)]
    (found,) = eventually(lambda: client.search_runs(everywhere, "attributes.run_name = 'digits'"), timeout=60)
    client.set_tag(found.info.run_id, "tailrace.stop", "ada: enough")
    code, _, errors = _ended(process)
    assert code == 0, errors
    parent, trials = _settled(sqlite_uri)
    assert parent.status == "FINISHED"
    assert "ada: enough" in parent.tags["tailrace.stopped_by"]
    assert 2 <= len(trials) < 40
    assert {trial.status for trial in trials.values()} == {"FINISHED"}
    (tmp_path / "digits.yaml").write_text(
        (tmp_path / "digits.yaml").read_text().replace("n_trials: 40", f"n_trials: {len(trials) + 1}")
    )
    code, _, errors = _ended(search("--workers", "2"))
    assert code == 0, errors
    assert len(_settled(sqlite_uri)[1]) == len(trials) + 1
