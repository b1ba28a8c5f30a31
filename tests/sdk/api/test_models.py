"""Models: as they were at the call, saved and uploaded in the background, registered once and only when whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, LoggedModelTag
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, TEMPORARILY_UNAVAILABLE
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from helpers.models import Sunk, X, Y, fitted, net
from helpers.sdk_tools import Store, eventually, named, newer_than_mlflow_3_7, script, tracking
from tailrace import CallError, Tracker
from tailrace_agent.errors import Refused, Unavailable


class Doubled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints
        return np.asarray(model_input) * self.factor


class Held(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Holds what nothing can copy, or (`inside`) what can be copied and not saved."""

    def __init__(self, *, inside: bool = False) -> None:
        self.held: Any = Unsavable() if inside else threading.Lock()

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints
        return model_input


class Unsavable:
    def __deepcopy__(self, memo: object) -> Unsavable:
        return self

    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be written down")


@pytest.fixture
def tracker(sqlite_uri: str) -> Iterator[Tracker]:
    with tracking(sqlite_uri) as tracker:
        yield tracker


@pytest.mark.slow
def test_a_model_of_each_kind_comes_back_as_it_was_at_the_call(
    store_uri: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name = f"kinds-{request.node.callspec.id}"
    module, estimator, function = net(), fitted(), Doubled(2.0)
    example = torch.tensor(X, dtype=torch.float32)
    with torch.no_grad():
        before = module(example)
    with tracking(store_uri) as tracker, tracker.start_run(experiment_name=name) as run:
        run.log_params({"lr": 0.1})
        run.flush()
        handles = [
            run.log_model(
                module, "net", input_example=example, registered_model_name=name, alias=("champion", "best"),
                tags={"data": "digits"}, description="the first one", metadata={"classes": np.int64(1)}, step=7,
            ),
            run.log_model(estimator, "skl", input_example=X[:2], registered_model_name=name, stage="Production"),
            run.log_model(function, "fun"),
        ]  # fmt: skip
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        example.zero_()
        estimator.coef_[:] = 0
        function.factor = 0.0
        assert all(handle.wait(60) for handle in handles)
        assert [handle.error for handle in handles] == [None] * 3
        assert [handle.version for handle in handles] == ["1", "2", None]

        loaded = tracker.load_model(name, alias="best")
        with torch.no_grad():
            assert torch.equal(loaded(torch.tensor(X, dtype=torch.float32)), before)
        assert tracker.load_model(name, stage="production").coef_.any()
        assert tracker.load_model(name).coef_.any(), "the newest version"
        assert tracker.load_model("fun", run_id=run.run_id).predict(X).tolist() == (X * 2).tolist()
        assert tracker.load_model(f"models:/{name}/1", pyfunc=True).predict(X.astype("float32")).shape == (4, 1)
        listed = tracker.list_models(name)

    assert listed["version"].tolist() == [2, 1]
    assert listed["aliases"].tolist() == [["production"], ["best", "champion"]]
    assert listed["stage"].tolist() == ["production", "none"]
    assert listed["tags"].tolist() == [{}, {"data": "digits"}]
    assert listed["description"].tolist() == ["", "the first one"]
    store = Store(store_uri, run)
    outputs = {output.model_id: output.step for output in store.run.outputs.model_outputs}
    assert {f"models:/{model_id}": step for model_id, step in outputs.items()} == dict(
        zip([handle.model_uri for handle in handles], (7, 0, 0), strict=True)
    )
    model = store.client.get_logged_model(str(handles[0].model_uri).removeprefix("models:/"))
    assert (model.name, model.status, model.params["lr"]) == ("net", LoggedModelStatus.READY, "0.1")
    mlflow.set_tracking_uri(store_uri)
    info = mlflow.models.get_model_info(f"models:/{name}@champion")
    assert (info.run_id, info.model_id, info.metadata) == (run.run_id, model.model_id, {"classes": 1})
    assert info.signature.inputs.to_dict()[0]["tensor-spec"] == {"dtype": "float32", "shape": (-1, 2)}
    counts = run.ledger().of("artifact")
    assert (counts.accepted, counts.delivered, counts.pending) == (3, 3, 0)


@pytest.mark.slow
def test_a_model_whose_classes_only_pickle_can_hold_is_saved_with_its_packages(
    tracker: Tracker, tmp_path: Path
) -> None:
    pipeline = make_pipeline(FunctionTransformer(lambda rows: rows + 1), LogisticRegression()).fit(X, Y)
    with tracker.start_run() as run:
        by_flavor = run.log_model(pipeline, "pipe", flavor="sklearn", save_options={"extra_pip_requirements": ["six"]})
        path = tmp_path / "saved"
        mlflow.pyfunc.save_model(str(path), python_model=Doubled(3.0), pip_requirements=[])
        saved = run.log_model(path, "saved")
        assert by_flavor.wait()
        assert saved.wait()
        assert by_flavor.error is None
        assert tracker.load_model(str(by_flavor.model_uri)).predict(X).tolist() == pipeline.predict(X).tolist()
        assert tracker.load_model(f"runs:/{run.run_id}/saved").predict(X).tolist() == (X * 3).tolist()
        mlflow.set_tracking_uri(tracker.get_tracking_uri())
        lines = Path(mlflow.pyfunc.get_model_dependencies(str(by_flavor.model_uri))).read_text().split()
    assert {line.partition("==")[0] for line in lines} >= {"mlflow", "scikit-learn", "cloudpickle", "six"}


def test_what_cannot_be_a_model_is_said_and_counted_and_raises_only_when_strict(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    bad: list[tuple[Any, dict[str, Any], str]] = [
        (fitted(), {"name": "a/b"}, "name must be a text"),
        (fitted(), {"alias": "best"}, "pass registered_model_name"),
        (fitted(), {"registered_model_name": "a:b"}, "registered_model_name must be"),
        (fitted(), {"registered_model_name": "m", "alias": "v3"}, "neither latest nor v1"),
        (7, {}, "none that log_model knows"),
        (Held(), {}, "cannot be copied"),
        ("/nowhere", {}, "no file MLmodel"),
        (fitted(), {"registered_model_name": "m", "alias": 5}, "alias must be a text or several"),
        (fitted(), {"registered_model_name": "m", "description": 5}, "description must be a text"),
        (fitted(), {"step": "x"}, "step must be an integer"),
        (fitted(), {"step": 2**63}, "step must be an integer"),
        (fitted(), {"tags": ["v1"]}, "tags must be a mapping, not list"),
        (fitted(), {"save_options": 5}, "save_options must be a mapping, not int"),
        (Held(inside=True), {}, "Failed to serialize"),
    ]
    with tracker.start_run() as run:
        for model, arguments, said in bad:
            handle = run.log_model(model, **arguments)
            assert handle.wait()
            assert said in str(handle.error)
            assert said in caplog.text
            assert (handle.model_uri, handle.version) == (None, None)
        assert run.flush().of("artifact").dropped == {
            "could not be read or drawn": len(bad) - 1,
            "could not be saved": 1,
        }
    with tracker.start_run(strict=True) as run, pytest.raises(CallError, match="name must be a text"):
        run.log_model(fitted(), "a/b")
    with tracker.start_run(agent="off") as run:
        assert "tracking is off" in str(run.log_model(fitted()).error)


@pytest.mark.slow
def test_the_settings_say_what_is_kept_and_registered(tracker: Tracker, sqlite_uri: str) -> None:
    register: Any = {"register_model": True, "model_stage": "canary", "model_description": "of the settings"}
    with tracker.start_run(**register, log_input_example=False) as run:
        assert run.log_model(fitted(), "m", input_example=X[:1]).wait()
    with tracker.start_run(**register, model_name="named", log_model_signature=False) as run:
        assert run.log_model(fitted(), "m", input_example=X[:1], description="mine").wait()
    with tracker.start_run(log_model=False) as run:
        assert "log_model is false" in str(run.log_model(fitted()).error)
    listed = tracker.list_models()
    assert listed["name"].tolist() == ["m", "named"]
    assert listed["aliases"].tolist() == [["canary"], ["canary"]]
    assert listed["description"].tolist() == ["of the settings", "mine"]
    mlflow.set_tracking_uri(sqlite_uri)
    without_example, without_signature = (mlflow.models.get_model_info(f"models:/{name}/1") for name in listed["name"])
    assert without_example.signature.inputs is not None
    assert without_example.saved_input_example_info is None
    assert without_signature.signature is None
    assert without_signature.saved_input_example_info is not None


@newer_than_mlflow_3_7("registers that name")
def test_a_registry_that_refuses_leaves_the_logged_model_and_a_dead_letter(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with tracker.start_run() as run:
        handle = run.register_model(fitted(), "..", X[:1], stage="staging")
        assert handle.wait()
        assert "not registered as '..': Invalid value" in str(handle.error)
        assert tracker.load_model(str(handle.model_uri)).coef_.any()
        ledger = run.flush()
    assert (ledger.of("artifact").dead, ledger.of("artifact").pending) == (1, 0)
    assert f"model '--' is logged as {handle.model_uri}, but not registered as '..'" in caplog.text


def test_a_registry_that_is_away_is_waited_for_and_its_password_is_written_nowhere(
    sqlite_uri: str, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking(sqlite_uri, registry_uri="http://ada:hush@127.0.0.1:9") as tracker:
        run = tracker.start_run()
        handle = run.register_model(saved, "m")
        eventually(lambda: "upload failed" in "".join(log.read_text() for log in tmp_path.rglob("agent.log")))
        assert not handle.wait(0)
        eventually(lambda: run.ledger().of("artifact").pending == 1)
        run.end(timeout=0.0)
        written = [path.read_bytes() for path in (tmp_path / "tailrace").rglob("*") if path.is_file()]
        assert any(b"ada@127.0.0.1:9" in body for body in written)
        assert not any(b"hush" in body for body in written)
    assert "hush" not in caplog.text


# -- at the sink -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_whatever_step_fails_the_next_attempt_ends_with_one_model_and_one_whole_version(
    sunk: Sunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = sunk.sink._registry(sunk.spec)
    steps = [
        (sunk.sink._runs.mlflows_own(), "create_logged_model", False),
        (sunk.sink._runs.mlflows_own(), "log_outputs", True),
        (sunk.sink._runs.mlflows_own(), "finalize_logged_model", False),
        (registry.store, "create_model_version", True),
        (registry.store, "set_registered_model_alias", False),
        (sunk.sink._runs.mlflows_own(), "set_logged_model_tags", True),
    ]
    for store, method, before in steps:
        real = getattr(store, method)

        def fail(*args: Any, real: Callable[..., Any] = real, before: bool = before, **kwargs: Any) -> Any:
            if not before:
                real(*args, **kwargs)
            raise MlflowException("the connection was lost", error_code=TEMPORARILY_UNAVAILABLE)

        with monkeypatch.context() as patch:
            patch.setattr(store, method, fail)
            with pytest.raises(Unavailable, match="the connection was lost"):
                sunk.log()
        whole = [model for model in sunk.models() if model.status == LoggedModelStatus.READY]
        assert len(sunk.models()) == 1
        assert len(sunk.versions()) <= len(whole), "no version of a model that is not whole"
    outcome = sunk.log()
    assert outcome == sunk.log()
    (model,), (version,) = sunk.models(), sunk.versions()
    assert (outcome.uri, outcome.version, outcome.error) == (f"models:/{model.model_id}", "1", None)
    assert sunk.client.get_model_version_by_alias(sunk.spec.registered_name, "best").version == version.version
    assert len(sunk.client.get_run(sunk.run_id).outputs.model_outputs) == 1
    assert sunk.spec.registered_name in model.tags["mlflow.modelVersions"]


@pytest.mark.slow
def test_twins_of_an_answer_that_was_lost_are_deleted(sunk: Sunk) -> None:
    registry = sunk.sink._registry(sunk.spec)
    tags = [LoggedModelTag("tailrace.model", sunk.spec.token)]
    for _ in range(2):
        sunk.sink._runs.mlflows_own().create_logged_model("0", "m", sunk.run_id, tags, [], None)
    first = sunk.log()
    tag = ModelVersionTag("tailrace.model", sunk.spec.token)
    source = sunk.models()[0].artifact_location
    if sunk.sink._runs.remote:
        source = first.uri
    registry.store.create_model_version(sunk.spec.registered_name, source, sunk.run_id, [tag], None, None,
                                        model_id=str(first.uri).removeprefix("models:/"))  # fmt: skip
    assert sunk.log() == first
    assert [str(version.version) for version in sunk.versions()] == ["1"]
    assert [f"models:/{model.model_id}" for model in sunk.models()] == [first.uri]


def test_a_version_waits_until_every_file_is_there(
    sqlite_uri: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sunk = Sunk(sqlite_uri, saved, tmp_path)

    def cut_short(self: object, local_dir: str, artifact_path: str | None = None) -> None:
        upload(self, local_dir, artifact_path)
        next(Path(sunk.models()[0].artifact_location).glob("*.txt")).write_text("")

    upload = LocalArtifactRepository.log_artifacts
    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifacts", cut_short)
        with pytest.raises(Unavailable, match=r"requirements\.txt has not arrived whole"):
            sunk.log()
    assert sunk.versions() == []
    assert sunk.models()[0].status == LoggedModelStatus.PENDING
    assert sunk.log().version == "1"


def test_a_store_without_logged_models_keeps_them_as_artifacts_of_the_run(
    sunk: Sunk, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise MlflowException("API request failed with error code 404", error_code=ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(sunk.sink._runs.mlflows_own(), "search_logged_models", unknown)
    outcome = sunk.log()
    assert outcome == sunk.log()
    assert (outcome.uri, outcome.version) == (f"runs:/{sunk.run_id}/m", "1")
    history = json.loads(sunk.client.get_run(sunk.run_id).data.tags["mlflow.log-model.history"])
    assert [(entry["artifact_path"], entry["run_id"]) for entry in history] == [("m", sunk.run_id)]
    tracker = Tracker(tracking_uri=store_uri)
    for model in (tracker.load_model(outcome.uri), tracker.load_model(sunk.spec.registered_name, alias="best")):
        assert model.coef_.any()


def test_a_directory_that_is_no_model_and_a_run_that_is_gone_are_refused(
    sqlite_uri: str, saved: Path, tmp_path: Path
) -> None:
    sunk = Sunk(sqlite_uri, saved, tmp_path)
    with pytest.raises(Refused, match="holds no file MLmodel"):
        sunk.sink.log_model(sunk.run_id, tmp_path, sunk.spec)
    with pytest.raises(Refused, match="is gone"):
        sunk.sink.log_model(sunk.run_id, tmp_path / "nowhere", sunk.spec)
    sunk.client.delete_run(sunk.run_id)
    with pytest.raises(Refused, match="was deleted"):
        sunk.log()


# -- processes -------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal
import tailrace
from tailrace_agent.ipc.status import AgentStatus, read

run = tailrace.start_run(run_name="killed")
run.run_id
agent = read(run._core.connection.session.shared / "agent.status", AgentStatus).pid
os.kill(agent, signal.SIGSTOP)
tailrace.log_model({path!r}, "mine", registered_model_name="mine")
os.kill(agent, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.faults
def test_a_model_outlives_its_trainer_and_its_agent_and_is_registered_once(
    sqlite_uri: str, saved: Path, tmp_path: Path
) -> None:
    done = script(tmp_path, KILLED.format(path=str(saved)), check=False, TAILRACE_TRACKING_URI=sqlite_uri)
    assert done.returncode == -signal.SIGKILL, done.stderr
    command = [sys.executable, "-c", "from tailrace_agent.cli import main; main()", "sync"]
    environ = {**os.environ, "TAILRACE_DIR": str(tmp_path / "tailrace")}
    subprocess.run(command, check=True, env=environ, capture_output=True, timeout=100)
    (version,) = MlflowClient(sqlite_uri).search_model_versions("name = 'mine'")
    assert version.status == "READY"
    store = named(sqlite_uri, "killed")
    assert store.status == "KILLED"
    assert len(store.run.outputs.model_outputs) == 1


@pytest.mark.faults
def test_a_script_that_just_ends_has_its_model_saved(sqlite_uri: str, tmp_path: Path) -> None:
    code = """
    import tailrace

    def predict(model_input: list[str]) -> list[str]:
        return model_input

    tailrace.log_model(predict, "fun", registered_model_name="fun")
    """
    done = script(tmp_path, code, TAILRACE_TRACKING_URI=sqlite_uri)
    assert "nothing lost" in done.stderr
    assert len(MlflowClient(sqlite_uri).search_model_versions("name = 'fun'")) == 1


def test_an_xgboost_model_comes_back(tracker: Tracker) -> None:
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed (pip install xgboost-cpu)")
    model = xgboost.XGBClassifier(n_estimators=2).fit(X, Y)
    booster = model.get_booster()
    with tracker.start_run() as run:
        handles = [run.log_model(model, "xgb", input_example=X[:1]), run.log_model(booster, "booster")]
        assert all(handle.wait() and handle.error is None for handle in handles), handles
        assert tracker.load_model("xgb", run_id=run.run_id).predict(X).tolist() == model.predict(X).tolist()
        again = tracker.load_model("booster", run_id=run.run_id)
    assert again.get_dump() == booster.get_dump()
