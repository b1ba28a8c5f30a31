"""What a batch leaves in MLflow, of plain numbers and of all else: `tailrace.store.batches`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.databases import copy_database
from helpers.sdk_tools import forget, named, script

BATCHES = """
import mlflow, numpy as np
{line}
from mlflow.entities import Metric, Param
from mlflow.tracking._tracking_service import client as of_client

converted, convert = [], of_client.convert_metric_value_to_float_if_possible
of_client.convert_metric_value_to_float_if_possible = lambda value: converted.append(value) or convert(value)

def refusal(metrics):
    try:
        mlflow.log_metrics(metrics)
    except mlflow.MlflowException as error:
        return str(error)

client = mlflow.MlflowClient()
with mlflow.start_run(run_name="batches") as run:
    mlflow.log_metrics({{"loss": 0.5, "nan": float("nan"), "inf": float("inf")}}, step=1)
    mlflow.log_metrics({{"accuracy": 0.5}}, step=2, timestamp=1234)
    print("CONVERTED", converted)
    mlflow.log_metrics({{"whole": 3, "true": True, "numpy": np.float32(0.5), "array": np.array([2.5]), "text": "1.5"}})
    client.log_batch(run.info.run_id, [Metric("many", float(n), n, n) for n in range(1500)])
    client.log_batch(run.info.run_id, [Metric("with", 1.0, 1, 1)], [Param("a param", "1")])
    client.log_batch(run.info.run_id)
    assert client.log_batch(run.info.run_id, [Metric("waited", 1.0, 1, 1)], synchronous=False).wait() is None
    print("REFUSED", refusal({{"loss?": 1.0}}), refusal({{"text": "no number"}}))
    with mlflow.set_active_model(name="net"):
        mlflow.log_metrics({{"of the model": 0.5}})
        print("MODEL", [(m.key, m.value) for m in mlflow.get_logged_model(mlflow.get_active_model_id()).metrics])
"""


@pytest.mark.slow
def test_a_batch_leaves_the_same_as_without_the_plug_in(sqlite_template: Path, tmp_path: Path) -> None:
    left = {}
    for line in ("", "import tailrace; tailrace.install()"):
        directory = tmp_path / ("installed" if line else "plain")
        directory.mkdir()
        uri = f"sqlite:///{copy_database(sqlite_template, directory)}"
        printed = script(directory, BATCHES.format(line=line), MLFLOW_TRACKING_URI=uri).stdout.splitlines()
        forget(directory)
        run = named(uri, "batches")
        metrics = {key: sorted(map(repr, points)) for key, points in run.metrics().items()}
        said = {
            text.split()[0]: re.sub(r"timestamp=\d+", "", text)
            for text in printed
            if text.startswith(("CONVERTED", "REFUSED", "MODEL"))
        }
        left[line] = metrics, run.params, run.status, said
    plain, installed = left.values()
    assert len(plain[0]["many"]) == 1500
    assert plain[3].pop("CONVERTED") == "CONVERTED [0.5, nan, inf, 0.5]"
    assert installed[3].pop("CONVERTED") == "CONVERTED []", "MLflow's client makes each metric anew"
    assert installed == plain
