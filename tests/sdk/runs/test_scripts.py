"""Whole programs: a plain MLflow script carried over, and how a run ends with the program that began it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.sdk_tools import eventually, forget, named, newer_than_mlflow_3_7, scripts
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.settings import Settings

PLAIN = """
import sys
import json
from pathlib import Path

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import MODULE as mlflow

mlflow.set_tracking_uri("sqlite:///store.db")
mlflow.set_experiment("carried over")
with mlflow.start_run(run_name="parent", tags={"team": "blue"}, description="a plain script") as run:
    mlflow.log_param("lr", 0.1)
    mlflow.log_params({"layers": 2, "name": "net", "flag": True, "nothing": None})
    mlflow.set_tag("stage", 1)
    mlflow.set_tags({"a": "b", "c": 3})
    for step in range(20):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metrics({"train/acc": step, "val/acc": np.float32(step) / 4}, step=step)
    mlflow.log_metric("no step", True)
    mlflow.log_metric("timed", 1.5, step=3, timestamp=1_700_000_000_000)
    mlflow.log_text("hello", "notes/hello.txt")
    mlflow.log_dict({"a": [1, 2], "b": None}, "config.json")
    mlflow.log_dict({"a": [1, 2], "b": None}, "config.yaml")
    Path("model.bin").write_bytes(bytes(range(256)))
    mlflow.log_artifact("model.bin")
    mlflow.log_artifact("model.bin", "checkpoints")
    Path("tree/below").mkdir(parents=True)
    Path("tree/one.txt").write_text("one")
    Path("tree/below/two.txt").write_text("two")
    mlflow.log_artifacts("tree", artifact_path="tree of files")
    mlflow.log_artifact("tree")
    mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), "black.png")
    mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), key="series", step=1)
    figure, axes = plt.subplots()
    axes.plot([1, 2, 3])
    mlflow.log_figure(figure, "plots/line.png")
    mlflow.log_table({"prompt": ["a", "b"], "score": [0.5, 1.0]}, "table.json")
    mlflow.log_table(pd.DataFrame({"prompt": ["c"], "score": [1.5]}), "table.json")
    with mlflow.start_run(run_name="child", nested=True) as child:
        mlflow.log_metric("inner", 1)
    assert mlflow.active_run().info.run_id == run.info.run_id
    try:
        mlflow.start_run()
    except Exception as error:
        assert "already active" in str(error) or "active already" in str(error), error
    else:
        raise AssertionError("two runs at once")
try:
    with mlflow.start_run(run_name="failing"):
        mlflow.log_metric("before", 1)
        raise RuntimeError("boom")
except RuntimeError:
    pass
mlflow.start_run(run_name="by hand")
mlflow.log_param("p", 1)
mlflow.end_run(status="KILLED")
assert mlflow.active_run() is None
mlflow.log_metric("implicit", 1)
mlflow.set_tag("mlflow.runName", "implicit")
print(mlflow.active_run().info.experiment_id)
"""


def described(uri: str, name: str) -> dict[str, Any]:
    """All that a run holds, but for what differs from run to run."""
    store = named(uri, name)
    ours = {"mlflow.source.name", "mlflow.parentRunId", "mlflow.source.git.commit"}
    tags = {key: value for key, value in store.tags.items() if not key.startswith("tailrace.") and key not in ours}
    files = {}
    for path in store.artifacts():
        content = Path(store.client.download_artifacts(store.run_id, path)).read_bytes()
        plain = not path.startswith("images/")
        files[path if plain else path.partition("+timestamp")[0] + path[-4:]] = (
            len(content) > 100 if path.endswith((".png", ".webp")) else _readable(path, content)
        )
    return {
        "experiment": store.client.get_experiment(store.run.info.experiment_id).name,
        "status": store.status,
        "params": store.params,
        "tags": tags,
        "metrics": {key: sorted(points) for key, points in store.metrics().items()},
        "files": files,
        "parent": "mlflow.parentRunId" in store.tags,
        "inputs": store.run.inputs.dataset_inputs,
    }


def _readable(path: str, content: bytes) -> Any:
    return json.loads(content) if path.endswith(".json") else content


@pytest.mark.slow
@newer_than_mlflow_3_7("names the images of a series otherwise")
def test_a_plain_mlflow_script_leads_to_the_same_runs_with_tailrace(tmp_path: Path, sqlite_template: Path) -> None:
    for name in ("mlflow", "tailrace"):
        shutil.copyfile(sqlite_template, tmp_path / f"{name}.db")
    done = scripts(
        tmp_path,
        {
            name: PLAIN.replace("MODULE", name).replace("sqlite:///store.db", f"sqlite:///{tmp_path / name}.db")
            for name in ("mlflow", "tailrace")
        },
    )
    assert {name: run.returncode for name, run in done.items()} == {"mlflow": 0, "tailrace": 0}, done
    assert done["mlflow"].stdout == done["tailrace"].stdout
    for run_name in ("parent", "child", "failing", "by hand", "implicit"):
        theirs, ours = (described(f"sqlite:///{tmp_path / name}.db", run_name) for name in ("mlflow", "tailrace"))
        if run_name == "failing":
            assert ours["tags"].pop("error.type") == "RuntimeError"
            assert ours["tags"].pop("error.message") == "boom"
        assert ours == theirs, run_name


ENDS = {
    "normal": ("FINISHED", 0, "sdk.log(x=1)"),
    "uncaught": ("FAILED", 1, "sdk.log(x=1); raise ValueError('boom')"),
}


@pytest.mark.slow
def test_a_run_ends_as_its_program_does(tmp_path: Path, sqlite_uri: str) -> None:
    """Without `end_run`, and in programs that are over before the agent, a thread here, has imported MLflow."""
    codes = {
        name: f"import tailrace as sdk\nsdk.start_run(run_name={name!r}, agent='thread')\n{code}\n"
        for name, (_, _, code) in ENDS.items()
    }
    done = scripts(tmp_path, codes, TAILRACE_TRACKING_URI=sqlite_uri)
    for name, (status, code, _) in ENDS.items():
        store = named(sqlite_uri, name)
        assert (name, store.status, done[name].returncode) == (name, status, code), done[name].stderr
        assert store.history("x") == [(0, 1.0)]
        assert ("error.type" in store.tags) is (status == "FAILED")
        assert "1 point delivered" in done[name].stderr
    uncaught = named(sqlite_uri, "uncaught")
    assert (uncaught.tags["error.type"], uncaught.tags["error.message"]) == ("ValueError", "boom")


SECRET = "s3cr3t-pa55"

WITH_PASSWORD = f"""
import os, sys, time
import tailrace as sdk

print(sdk.get_tracking_uri())
with sdk.start_run(run_name="secret", tags={{"a": "b"}}, exit_timeout=1) as run:
    print(run)
    sdk.log(x=1)
    sdk.log_text("text", "note.txt")
    sdk.flush()
    print(run, sdk.get_tracking_uri(), run.ledger())
    uri = os.environ["MLFLOW_TRACKING_URI"].replace("{SECRET}", "other-{SECRET}")
    with sdk.start_run(tracking_uri=uri, nested=True):
        sdk.log(y=1)
"""


@pytest.mark.slow
def test_a_password_is_never_on_disk_and_never_printed(tmp_path: Path, mlflow_server: str) -> None:
    away = "127.0.0.1:9"
    codes = {}
    for name, host, patience in (("there", mlflow_server.removeprefix("http://"), "30"), ("away", away, "1.5")):
        variables = {"MLFLOW_TRACKING_URI": f"http://ada:{SECRET}@{host}", "TAILRACE_END_TIMEOUT": patience}
        codes[name] = f"import os\nos.environ.update({variables})\n{WITH_PASSWORD}"
    done = scripts(tmp_path, codes, MLFLOW_EXPERIMENT_NAME="secrets", TAILRACE_LOG_LEVEL="debug", TAILRACE_LINGER="0")
    assert {name: program.returncode for name, program in done.items()} == {"there": 0, "away": 0}, done
    assert named(mlflow_server, "secret").history("x") == [(0, 1.0)]
    assert "ada" in done["there"].stdout
    for program in done.values():
        assert SECRET not in program.stdout + program.stderr
    settings = Settings(dir=str(tmp_path / "away" / "tailrace"))
    (session,) = Session.all(settings)
    eventually(lambda: not session.agent_alive())
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "train.py"]
    assert {"session.json", "agent.log", "spool.db"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    forget(tmp_path / "away")
