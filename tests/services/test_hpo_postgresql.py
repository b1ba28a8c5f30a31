"""Searches whose study is in PostgreSQL, by several processes.

`HPO_TRIALS=1000 HPO_WORKERS=4` makes the first one as large as the figure that is promised.
"""

from __future__ import annotations

import os
import subprocess
import textwrap
from pathlib import Path

import optuna
import pytest
import yaml
from mlflow import MlflowClient

from helpers.sdk_tools import Store, command_line, eventually, forget
from services.postgresql import PASSWORD, PostgreSQL
from tailrace.hpo.storage import open_storage
from tailrace_agent.errors import Unavailable

_OBJECTIVE = """
    import os, time
    import tailrace as sdk

    def objective(trial, params):
        for step in range(3):
            sdk.log(step=step, loss=params["x"])
        if os.path.exists("slow"):
            open(f"began-{trial.number}", "w").close()
            time.sleep(1)
        elif trial.number in (3, 7):
            os.kill(os.getpid(), 9)
        time.sleep(0.05)
        return params["x"]
"""
_TRIALS = int(os.environ.get("HPO_TRIALS", "40"))
_WORKERS = os.environ.get("HPO_WORKERS", "2")

pytestmark = [pytest.mark.services, pytest.mark.timeout(300 + _TRIALS)]


@pytest.fixture
def storage(postgresql_server: PostgreSQL, request: pytest.FixtureRequest) -> str:
    """A fresh database for a study."""
    name = f"studies_{request.node.name[:40]}"
    postgresql_server.execute(f"CREATE DATABASE {name}")
    return postgresql_server.uri(name)


def _command(folder: Path, uri: str) -> list[str]:
    (folder / "bin").mkdir()
    (folder / "train.py").write_text(textwrap.dedent(_OBJECTIVE))
    config = {
        "mlflow": {"tracking_uri": uri, "experiment_name": "found"},
        "hpo": {
            "study_name": "digits",
            "objective": "train.py:objective",
            "metric": "acc",
            "n_trials": _TRIALS,
            "storage": "${OPTUNA_STORAGE}",
            "search_space": {"x": {"type": "float", "low": 0, "high": 1}},
        },
    }
    (folder / "digits.yaml").write_text(yaml.safe_dump(config))
    return [*command_line(folder / "bin"), "hpo", "digits.yaml", "--workers", _WORKERS]


def _stores(uri: str) -> tuple[Store, dict[int, Store]]:
    """The one parent, and the trials by their numbers, once nothing is RUNNING."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("found")
    assert experiment is not None

    def settled() -> list[Store]:
        stores = [
            Store(uri, run.info.run_id) for run in client.search_runs([experiment.experiment_id], max_results=5000)
        ]
        return [] if any(store.status == "RUNNING" for store in stores) else stores

    stores = eventually(settled, 60)
    (parent,) = [store for store in stores if "mlflow.parentRunId" not in store.tags]
    trials = {int(store.params["trial_number"]): store for store in stores if store is not parent}
    assert len(stores) == len(trials) + 1
    return parent, trials


def _check(uri: str, storage: str) -> None:
    """One parent, every trial once, nothing RUNNING, and counts that are the study's."""
    states = [trial.state.name for trial in optuna.load_study(study_name="digits", storage=storage).trials]
    assert sorted(set(states)) == ["COMPLETE", "FAIL"]
    assert states.count("FAIL") == 2
    parent, trials = _stores(uri)
    assert sorted(trials) == list(range(len(states)))
    assert {number for number, store in trials.items() if store.status == "KILLED"} == {3, 7}
    assert all(len(store.history("loss")) == 3 for store in trials.values())
    assert parent.status == "FINISHED"
    assert parent.run.data.metrics["total_trials"] == len(states)
    assert parent.run.data.metrics["completed_trials"] == len(states) - 2
    assert parent.run.data.metrics["failed_trials"] == 2


def test_two_of_the_workers_are_killed_and_nothing_is_lost_or_counted_twice(
    storage: str, sqlite_uri: str, tmp_path: Path
) -> None:
    environ = {**os.environ, "OPTUNA_STORAGE": storage}
    done = subprocess.run(
        _command(tmp_path, sqlite_uri), cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{_TRIALS} trials, {_TRIALS - 2} completed, 0 pruned, 2 failed" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    _check(sqlite_uri, storage)
    forget(tmp_path)


def test_a_second_machine_joins_the_study_and_its_run(storage: str, sqlite_uri: str, tmp_path: Path) -> None:
    """The second command knows no more of the first than another machine does: another name, and another state."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    both = [
        subprocess.Popen(
            _command(tmp_path / name, sqlite_uri), cwd=tmp_path / name, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OPTUNA_STORAGE": storage, "TAILRACE_DIR": str(tmp_path / name / "tailrace")},
        )
        for name in ("a", "b")
    ]  # fmt: skip
    for command in both:
        out, _ = command.communicate(timeout=250 + _TRIALS)
        assert command.returncode == 0, out
    study = optuna.load_study(study_name="digits", storage=storage)
    assert _TRIALS <= len(study.trials) <= _TRIALS + 4
    _check(sqlite_uri, storage)
    forget(tmp_path / "a")
    forget(tmp_path / "b")


def test_a_database_that_goes_away_on_the_way_ends_the_search_in_one_line_and_the_same_command_goes_on(
    storage: str, postgresql_server: PostgreSQL, sqlite_uri: str, tmp_path: Path
) -> None:
    environ = {**os.environ, "OPTUNA_STORAGE": storage}
    (tmp_path / "slow").touch()
    command = _command(tmp_path, sqlite_uri)
    search = subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        eventually(lambda: len(list(tmp_path.glob("began-*"))) >= 2, 60)
        postgresql_server.stop()
        _, err = search.communicate(timeout=120)
    finally:
        postgresql_server.start()
        search.kill()
    said = [line for line in err.splitlines() if line.startswith("tailrace: storage postgresql://ada:***@")]
    assert search.returncode == 3, err
    assert "has gone away on the way" in said[-1]
    assert PASSWORD not in err
    parent, _ = _stores(sqlite_uri)
    assert (parent.status, parent.tags["error.type"]) == ("FAILED", "Unavailable")
    (tmp_path / "slow").unlink()
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again, trials = _stores(sqlite_uri)
    assert (again.run_id, again.status, "error.type" in again.tags) == (parent.run_id, "FINISHED", False)
    study = optuna.load_study(study_name="digits", storage=storage)
    assert len(study.trials) == _TRIALS
    for trial in study.trials:
        wanted = {"COMPLETE": ("FINISHED",), "FAIL": ("KILLED", "FAILED")}[trial.state.name]
        assert trials[trial.number].status in wanted
        assert len(trials[trial.number].history("loss")) == 3
    forget(tmp_path)


def test_a_wrong_password_is_one_error_that_does_not_show_it(postgresql_server: PostgreSQL) -> None:
    with pytest.raises(Unavailable, match=r"storage postgresql://ada:\*\*\*@127\.0\.0\.1") as error:
        open_storage(postgresql_server.uri("postgres", password="wr0ng"))
    assert "wr0ng" not in str(error.value)
    assert "\n" not in str(error.value)
