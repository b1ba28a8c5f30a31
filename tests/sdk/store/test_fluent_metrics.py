"""What `mlflow.log_metric` and `log_metrics` leave in MLflow: the same, whichever way they go."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.databases import copy_database
from helpers.plug_in_ways import plain_and_installed
from helpers.sdk_tools import forget, named, script

CALLS = """
import os, threading
import mlflow, numpy as np
from mlflow import log_metric as imported_before
{line}

def refusal(call, *args, **more):
    try:
        call(*args, **more)
    except Exception as error:
        return f"{{type(error).__name__}} {{error}}"

for _ in range(2):  # names for the first time, and known ones
    with mlflow.start_run(run_name="calls") if not _ else mlflow.start_run(run_id=run.info.run_id) as run:
        mlflow.log_metric("loss", 0.5)
        mlflow.log_metric("loss", 0.25, 1)
        mlflow.log_metric("loss", 0.125, step=2, timestamp=1234)
        mlflow.log_metric("loss", float("nan"), step=3)
        mlflow.log_metrics({{"loss": float("-inf"), "a": 1.0}}, step=4)
        mlflow.log_metrics({{"loss": 3, "a": True, "b": np.float32(0.5), "c": "1.5"}}, step=5)
        mlflow.log_metrics({{"loss": 7.0}}, -3)
        mlflow.log_metrics({{"loss": 8.0}}, step=6, timestamp=0)
        mlflow.log_metrics({{}})
        mlflow.log_metric("late", 1.0, timestamp=2**43)
        mlflow.log_metrics({{"loss": 9.0}}, run_id=run.info.run_id, step=7)
        imported_before("loss", 10.0, step=8)
        print("WAITED", type(mlflow.log_metric("loss", 11.0, step=9, synchronous=False)).__name__)
        os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "true"
        print("WAITED", type(mlflow.log_metrics({{"loss": 12.0}}, step=10)).__name__)
        del os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"]
        mlflow.flush_async_logging()
        print("RETURNED", mlflow.log_metric("loss", 13.0, step=11), mlflow.log_metrics({{"loss": 14.0}}, step=12))
        print("SEEN", mlflow.get_run(run.info.run_id).data.metrics["loss"])
        print("REFUSED", refusal(mlflow.log_metric, "loss", "no number"))
        print("REFUSED", refusal(mlflow.log_metrics, {{"loss?": 1.0}}))
        print("REFUSED", refusal(mlflow.log_metric, "loss", 1.0, step="x"))
        print("REFUSED", refusal(mlflow.log_metric, "loss", 1.0, nonsense=1))
        with mlflow.start_run(nested=True, run_name=f"child-{{_}}"):
            mlflow.log_metric("loss", 15.0)
        with mlflow.set_active_model(name=f"net-{{_}}"):
            mlflow.log_metric("loss", 16.0, step=13)
            print("MODEL", [(m.key, m.value) for m in mlflow.get_logged_model(mlflow.get_active_model_id()).metrics])

thread = threading.Thread(target=mlflow.log_metric, args=("loss", 17.0))
thread.start()  # in a thread without a run another one begins
thread.join()
"""


@pytest.mark.slow
def test_each_call_leaves_and_says_the_same_as_without_the_plug_in(sqlite_template: Path, tmp_path: Path) -> None:
    left = []
    for uri, printed in plain_and_installed(CALLS, sqlite_template, tmp_path):
        said = [
            re.sub(r"timestamp=\d+", "", text)
            for text in printed
            if text.startswith(("WAITED", "RETURNED", "SEEN", "REFUSED", "MODEL"))
        ]
        metrics = {
            name: {key: sorted(map(repr, points)) for key, points in named(uri, name).metrics().items()}
            for name in ("calls", "child-0", "child-1")
        }
        left.append((said, metrics))
    plain, installed = left
    assert installed == plain
    assert len(plain[0]) == 18


MODELS = """
import mlflow
{line}

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input

for named in (False, True):  # a run without models, and one that has some from its beginning
    with mlflow.start_run() if not named else mlflow.start_run(run_id=run.info.run_id) as run:
        for step in range(3):
            mlflow.log_metrics({{"a": float(step)}}, step=step)
        model = mlflow.pyfunc.log_model(name=f"model-{{named}}", python_model=Model(), step=5)
        mlflow.log_metrics({{"a": 5.0}}, step=5)
        mlflow.log_metric("a", 5.5, step=5)
        mlflow.log_metric("a", 6.0, step=6)
        print("MODEL", [(m.key, m.value, m.step) for m in mlflow.get_logged_model(model.model_id).metrics])
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_that_the_run_has_made_gets_the_metrics_of_its_step(sqlite_template: Path, tmp_path: Path) -> None:
    seen = []
    for _, printed in plain_and_installed(MODELS, sqlite_template, tmp_path):
        seen.append([text for text in printed if text.startswith("MODEL")])
    plain, installed = seen
    assert installed == plain
    assert "5.5" in plain[1]


@pytest.mark.slow
def test_a_time_that_no_row_can_carry_and_a_name_that_is_a_number_stop_nobody(
    sqlite_template: Path, tmp_path: Path
) -> None:
    code = """
import time, mlflow, tailrace
tailrace.install()
with mlflow.start_run(run_name=7):
    for step in range(3):
        mlflow.log_metric("loss", 0.5, step=step, timestamp=time.time_ns())
    mlflow.MlflowClient().log_batch(
        mlflow.active_run().info.run_id, [mlflow.entities.Metric("loss", 0.25, time.time_ns(), 3)]
    )
print("DONE")
"""
    uri = f"sqlite:///{copy_database(sqlite_template, tmp_path)}"
    done = script(tmp_path, code, MLFLOW_TRACKING_URI=uri)
    forget(tmp_path)
    assert "DONE" in done.stdout
    assert len(named(uri, "7").metrics()["loss"]) == 4


@pytest.mark.slow
def test_the_store_that_is_named_anew_gets_what_follows_or_refuses_it(sqlite_template: Path, tmp_path: Path) -> None:
    code = """
import mlflow, tailrace
tailrace.install()
mlflow.set_tracking_uri({first!r})
with mlflow.start_run():
    mlflow.log_metric("loss", 1.0)
    mlflow.log_metric("loss", 2.0, step=1)
    mlflow.set_tracking_uri({second!r})
    try:
        mlflow.log_metric("loss", 3.0, step=2)
    except mlflow.MlflowException as error:
        print("REFUSED", error.error_code)
    mlflow.set_tracking_uri({first!r})
"""
    uris = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        uris.append(f"sqlite:///{copy_database(sqlite_template, tmp_path / name)}")
    done = script(tmp_path, code.format(first=uris[0], second=uris[1]))
    forget(tmp_path)
    assert "REFUSED RESOURCE_DOES_NOT_EXIST" in done.stdout
