"""MLflow's own functions, called as `tailrace.…`: they mean tailrace's run, store and experiment."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

import tailrace
from helpers.sdk_tools import Store, forget, script, warnings
from tailrace._api.tracker_core import module_core


def runs_of(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def test_a_data_set_goes_to_the_active_run_and_makes_no_other(store: str) -> None:
    data = tailrace.data.from_numpy(np.ones((2, 2)), source="data.csv")
    with tailrace.start_run() as run:
        tailrace.log_input(data, context="training")
        assert mlflow.active_run() is None, "MLflow's own stack is as it was"
    (stored,) = runs_of(store)
    assert stored.info.run_id == run.run_id
    assert [each.dataset.name for each in stored.inputs.dataset_inputs] == ["dataset"]


def test_where_no_run_is_active_tailrace_begins_one(store: str) -> None:
    uri = tailrace.get_artifact_uri("a/b.txt")
    run = tailrace.active_run()
    assert run is not None
    assert uri == f"{run.info.artifact_uri}/a/b.txt"
    assert len(runs_of(store)) == 1


def test_what_was_logged_is_there_when_mlflow_reads(store: str) -> None:
    with tailrace.start_run() as run:
        tailrace.log_text("hello", "note.txt")
        assert tailrace.artifacts.load_text(tailrace.get_artifact_uri("note.txt")) == "hello"
        tailrace.log_metric("loss", 0.5, step=3)
        tailrace.set_tag("phase", "one")
        assert tailrace.get_run(run.run_id).data.metrics == {"loss": 0.5}
        tailrace.delete_tag("phase")
        assert "phase" not in run.data.tags
        tailrace.log_table({"a": [1, 2]}, "t.json")
        assert list(tailrace.load_table("t.json", run_ids=[run.run_id])["a"]) == [1, 2]


@pytest.mark.slow
def test_a_logged_model_belongs_to_the_active_run(store: str) -> None:
    class Twice(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any) -> Any:
            return model_input

    with tailrace.start_run() as run:
        external = tailrace.create_external_model(name="theirs")
        tailrace.log_model_params({"layers": "3"}, model_id=external.model_id)
        info = tailrace.pyfunc.log_model(name="ours", python_model=Twice())
    assert tailrace.get_logged_model(external.model_id).source_run_id == run.run_id
    assert tailrace.get_logged_model(external.model_id).params == {"layers": "3"}
    assert tailrace.get_logged_model(info.model_id).source_run_id == run.run_id
    assert [each.info.run_id for each in runs_of(store)] == [run.run_id]


def test_another_threads_run_is_that_threads(store: str) -> None:
    def train(name: str) -> None:
        with tailrace.start_run(run_name=name):
            uris[name] = tailrace.get_artifact_uri()

    uris: dict[str, str] = {}
    threads = [threading.Thread(target=train, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert uris == {run.info.run_name: run.info.artifact_uri for run in runs_of(store)}


def test_experiments_are_tailraces(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tailrace.set_experiment_tag("team", "blue")
    experiment = tailrace.get_experiment_by_name("beside")
    assert experiment.tags == {"team": "blue"}
    assert tailrace.set_experiment("beside").tags == {"team": "blue"}
    assert {each.name for each in tailrace.search_experiments()} == {"beside", "Default"}
    # As a file or a setting names it, and no `set_experiment`.
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    module_core().given["experiment_name"] = "by a setting"
    tailrace.set_experiment_tag("team", "red")
    assert MlflowClient(store).get_experiment_by_name("by a setting").tags == {"team": "red"}


def test_mlflow_looks_where_tailraces_runs_go(store: str, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'elsewhere.db'}")
    with tailrace.start_run() as run:
        pass
    assert tailrace.get_run(run.run_id).info.status == "FINISHED"
    assert tailrace.get_parent_run(run.run_id) is None


def test_a_password_goes_on_to_no_other_program(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    module_core().given["tracking_uri"] = "http://user:secret@localhost:1"
    assert tailrace.get_registry_uri() == "http://user:secret@localhost:1"
    assert "secret" not in "".join(os.environ.values())


def test_a_mistake_comes_out_and_a_store_that_is_away_does_not(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = tailrace.data.from_numpy(np.ones((2, 2)), source="data.csv")

    def away(*_: Any, **__: Any) -> None:
        raise mlflow.MlflowException("the server is away")

    with tailrace.start_run():
        with pytest.raises(TypeError, match="unexpected"):
            tailrace.log_input(data, nonsense=1)
        monkeypatch.setattr(MlflowClient, "log_inputs", away)
        tailrace.log_input(data)
    assert any("log_input" in text and "the server is away" in text for text in warnings(caplog))


def test_with_tracking_off_nothing_is_asked_of_mlflow(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tailrace.data.from_numpy(np.ones((2, 2)), source="data.csv")
    with tailrace.start_run(agent="off"):
        tailrace.log_input(data)
        tailrace.delete_tag("a")
        assert tailrace.get_artifact_uri() == ""
    assert runs_of(store) == []


def test_settings_of_mlflows_reach_tailrace(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENABLE_SYSTEM_METRICS_LOGGING", "SYSTEM_METRICS_SAMPLING_INTERVAL", "SYSTEM_METRICS_NODE_ID"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    tailrace.enable_system_metrics_logging()
    tailrace.set_system_metrics_sampling_interval(7)
    tailrace.set_system_metrics_node_id("n1")
    settings = module_core().settings({})
    assert (settings.log_system_metrics, settings.system_metrics_interval, settings.system_metrics_node) == (
        True,
        7,
        "n1",
    )
    tailrace.disable_system_metrics_logging()
    tailrace.set_system_metrics_sampling_interval(None)
    tailrace.set_system_metrics_node_id(None)
    settings = module_core().settings({})
    assert (settings.log_system_metrics, settings.system_metrics_node) == (False, None)
    tailrace.set_registry_uri("sqlite:///registry.db")
    assert module_core().settings({}).registry_uri == tailrace.get_registry_uri() == "sqlite:///registry.db"
    tailrace.set_registry_uri("")


def test_calls_return_something_to_wait_on_after_async_logging_is_enabled(store: str) -> None:
    with tailrace.start_run() as run:
        assert tailrace.log_metric("a", 1) is None
        tailrace.config.enable_async_logging()
        try:
            tailrace.log_metric("a", 2, step=1).wait()
            assert len(Store(store, run).history("a")) == 2
        finally:
            tailrace.config.enable_async_logging(False)
        assert tailrace.log_metric("a", 3) is None
        tailrace.flush_async_logging()
        assert len(Store(store, run).history("a")) == 3
        tailrace.log_dict({"a": 1}, "a.json")
        tailrace.flush_artifact_async_logging()
        assert json.loads(tailrace.artifacts.load_text(tailrace.get_artifact_uri("a.json"))) == {"a": 1}


@pytest.mark.slow
def test_what_a_framework_logs_by_itself_goes_to_the_active_run_and_to_one_of_its_own(
    sqlite_uri: str, tmp_path: Path
) -> None:
    done = script(
        tmp_path,
        """
        import numpy as np
        from sklearn.linear_model import LinearRegression

        import tailrace

        def fit():
            LinearRegression(positive=True).fit(np.ones((4, 1)), np.arange(4.0))

        tailrace.set_experiment("by itself")
        tailrace.autolog(log_models=False)
        with tailrace.start_run(run_name="ours") as run:
            tailrace.log(step=3, loss=0.5)
            fit()
        fit()
        print(run.run_id)
        """,
        TAILRACE_TRACKING_URI=sqlite_uri,
    )
    ours = Store(sqlite_uri, done.stdout.split()[-1])
    assert (ours.status, ours.history("loss"), ours.params["positive"]) == ("FINISHED", [(3, 0.5)], "True")
    assert "training_mean_squared_error" in ours.run.data.metrics
    (other,) = [run for run in runs_of(sqlite_uri) if run.info.run_id != ours.run_id]
    assert (other.info.status, other.data.params["positive"]) == ("FINISHED", "True")
    assert other.info.experiment_id == ours.run.info.experiment_id != "0"
    forget(tmp_path)


def test_a_tracking_uri_that_is_set_after_a_function_of_mlflows_is_where_its_client_looks_too(
    store: str, tmp_path: Path
) -> None:
    with tailrace.start_run():
        tailrace.get_artifact_uri()  # from now on MLflow has the address before by itself
    tailrace.set_tracking_uri(f"sqlite:///{tmp_path}/another.db")
    MlflowClient().create_registered_model("mine")
    assert [model.name for model in tailrace.search_registered_models()] == ["mine"]
