"""Ray Tune, local, with a real store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import Store, eventually, forget, tracking

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    found = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # this module, whose functions the workers call
    ray.init(
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env=found,
    )
    yield
    ray.shutdown()


class _Logging:
    """An actor with a run of its own."""

    def log(self, uri: str, name: str) -> int:
        import tailrace

        tailrace.start_run(run_name=name, tracking_uri=uri)
        for step in range(100):
            tailrace.log(step=step, loss=1.0)
        return os.getpid()


def test_what_an_actor_has_logged_arrives_though_ray_kills_it(cluster: None, sqlite_uri: str, tmp_path: Path) -> None:
    environment = {"env_vars": {"TAILRACE_DIR": str(tmp_path / "state"), "PYTHONPATH": os.pathsep.join(sys.path)}}
    make = ray.remote(_Logging).options(num_cpus=0.1, runtime_env=environment)
    actors = [make.remote() for _ in range(4)]
    pids = ray.get([actor.log.remote(sqlite_uri, f"actor-{i}") for i, actor in enumerate(actors)])
    for actor in actors:
        ray.kill(actor)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    client = MlflowClient(sqlite_uri)
    runs = eventually(lambda: _ended(client.search_runs(["0"]), 4), 60)
    assert {run.info.status for run in runs} == {"KILLED"}
    assert {len(client.get_metric_history(run.info.run_id, "loss")) for run in runs} == {100}


def _ended(runs: list[Any], number: int) -> list[Any] | None:
    return runs if [run.info.status for run in runs].count("RUNNING") == 0 and len(runs) == number else None


def _train(config: dict[str, Any]) -> None:
    for epoch in range(3):
        if config["x"] == 2 and epoch == 1:
            raise ValueError("it diverges")
        ray.tune.report({"loss": config["x"] + 1 / (epoch + 1), "val": {"acc": 0.5}})


def _epochs(config: dict[str, Any]) -> None:
    from tailrace.hpo.ray import ReportingTracker

    tracker = ReportingTracker()
    with tracker.start_run(run_name="inside"):
        for epoch in range(2):
            tracker.log({"train/loss_step": 1.0}, step=epoch)
            tracker.log({"epoch/val_loss": float(config["x"] + epoch)}, step=epoch)


def _tuned(train: Any, callback: Any, tmp_path: Path) -> Any:
    return ray.tune.Tuner(
        train,
        param_space={"x": ray.tune.grid_search([0, 1, 2])},
        run_config=ray.tune.RunConfig(storage_path=str(tmp_path / "ray"), callbacks=[callback], verbose=0),
    ).fit()


def _runs(uri: str) -> tuple[Store, dict[str, Store]]:
    client = MlflowClient(uri)
    stores = [Store(uri, run.info.run_id) for run in client.search_runs(["0"])]
    (parent,) = [store for store in stores if "mlflow.parentRunId" not in store.tags]
    return parent, {store.params["hpo/x"]: store for store in stores if store is not parent}


def test_each_trial_of_ray_is_a_run_below_one(cluster: None, sqlite_uri: str, tmp_path: Path) -> None:
    from tailrace.hpo.ray import TailraceLoggerCallback

    with tracking(sqlite_uri) as tracker:
        callback = TailraceLoggerCallback("tuned", metric="loss", mode="min", tracker=tracker)
        results = _tuned(_train, callback, tmp_path)
    assert len(results.errors) == 1
    parent, children = _runs(sqlite_uri)
    assert parent.status == "FINISHED"
    assert parent.run.data.metrics["total_trials"] == 3
    assert parent.run.data.metrics["failed_trials"] == 1
    assert parent.run.data.metrics["best_loss"] == pytest.approx(1 / 3)
    assert parent.params["best_hpo/x"] == "0"
    assert parent.artifacts() == ["hpo_trials_history.csv"]
    assert {x: child.status for x, child in children.items()} == {"0": "FINISHED", "1": "FINISHED", "2": "FAILED"}
    states = {x: child.tags["trial.state"] for x, child in children.items()}
    assert states == {"0": "TERMINATED", "1": "TERMINATED", "2": "ERROR"}
    assert [step for step, _ in children["1"].history("loss")] == [1, 2, 3]
    assert children["1"].history("val/acc") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert children["1"].run.data.metrics["trial/loss"] == pytest.approx(1 + 1 / 3)
    assert (children["2"].tags["error.type"], children["2"].tags["error.message"]) == ("ValueError", "it diverges")


def test_what_trains_inside_of_a_trial_reports_through_it(cluster: None, sqlite_uri: str, tmp_path: Path) -> None:
    from tailrace.hpo.ray import TailraceLoggerCallback

    with tracking(sqlite_uri) as tracker:
        _tuned(_epochs, TailraceLoggerCallback("tuned", metric="epoch/val_loss", mode="min", tracker=tracker), tmp_path)
    parent, children = _runs(sqlite_uri)
    assert children["2"].history("epoch/val_loss") == [(1, 2.0), (2, 3.0)]
    assert children["2"].history("train/loss_step") == [(1, 1.0), (2, 1.0)]
    assert parent.run.data.metrics["best_epoch/val_loss"] == 1.0


def test_the_example_of_the_documentation_leaves_a_run_for_each_trial(sqlite_uri: str, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "docs" / "examples" / "ray_tune.py"
    environ = {**os.environ, "TAILRACE_TRACKING_URI": sqlite_uri, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(example), "2"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    client = MlflowClient(sqlite_uri)
    stores = [Store(sqlite_uri, run.info.run_id) for run in client.search_runs(["0"])]
    assert sorted(store.tags["mlflow.runName"] for store in stores) == ["digits-ray", "trial_0000", "trial_0001"]
    (parent,) = [store for store in stores if "mlflow.parentRunId" not in store.tags]
    assert 0 < parent.run.data.metrics["best_val_accuracy"] <= 1
    forget(tmp_path)
