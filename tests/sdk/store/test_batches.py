"""What a batch leaves in MLflow, of plain numbers and of all else: `tailrace.store.batches`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.plug_in_ways import plain_and_installed
from helpers.sdk_tools import named

BATCHES = """
import mlflow, numpy as np
{line}
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking._tracking_service import client as of_client

converted, convert = [], of_client.convert_metric_value_to_float_if_possible
of_client.convert_metric_value_to_float_if_possible = lambda value: converted.append(value) or convert(value)

def refusal(metrics):
    try:
        mlflow.log_metrics(metrics)
    except mlflow.MlflowException as error:
        return str(error)

client, failed = mlflow.MlflowClient(), []
with mlflow.start_run(run_name="batches") as run:
    mlflow.log_metrics({{"loss": 0.5, "nan": float("nan"), "inf": float("inf")}}, step=1)
    mlflow.log_metrics({{"accuracy": 0.5}}, step=2, timestamp=1234)
    print("CONVERTED", converted)
    mlflow.log_metrics({{"whole": 3, "true": True, "numpy": np.float32(0.5), "array": np.array([2.5]), "text": "1.5"}})
    client.log_batch(run.info.run_id, [Metric("many", float(n), n, n) for n in range(1500)])
    client.log_batch(run.info.run_id, [Metric("with", 1.0, 1, 1)], [Param("a param", "1")])
    client.log_batch(run.info.run_id)
    assert client.log_batch(run.info.run_id, [Metric("waited", 1.0, 1, 1)], synchronous=False).wait() is None
    for step in range(3):  # the names are known from the second time on
        row = [Metric("one", step / 2, 1000 + step, step), Metric("other", float("-inf"), 1000 + step, step)]
        client.log_batch(run.info.run_id, row, synchronous=[None, True, False][step])
        client.log_batch(run.info.run_id, tuple(row), tags=[RunTag("last", str(step))])
    client.log_batch(run.info.run_id, [Metric("one", 1.0, 5, 9), Metric("one", 2.0, 5, 9)])
    apart = [Metric("one", 3.0, 6, 10), Metric("other", 3.0, 6, 11), Metric("one", 4.0, 7, 10)]
    client.log_batch(run.info.run_id, apart)
    client.log_batch(run.info.run_id, [Metric("one", 5, 8, 12), Metric("other", np.float64(5.5), 8, 12)])
    client.log_batch(run_id=run.info.run_id, metrics=[Metric("one", 7.0, 10, 14, None, "of data", "digest")])
    print("REFUSED", refusal({{"loss?": 1.0}}), refusal({{"text": "no number"}}))
    for run_id, metrics in (
        ("f" * 32, [Metric("one", 1.0, 1, 1)]),
        (None, [Metric("one", 1.0, 1, 1)]),
        (["a"], [Metric("one", 1.0, 1, 1)]),
        (run.info.run_id, [Metric("one", 1.0, -1, 1)]),
        (run.info.run_id, [Metric("one", 1.0, 1, None)]),
        (run.info.run_id, [Metric("one", None, 1, 1)]),
        (run.info.run_id, None),
    ):
        try:
            print("OTHER" + str(len(failed)), client.log_batch(run_id, metrics))
        except Exception as error:
            failed.append(f"{{type(error).__name__}} {{error}}")
            print(f"OTHER{{len(failed)}}", failed[-1])
    with mlflow.set_active_model(name="net"):
        mlflow.log_metrics({{"of the model": 0.5}})
        client.log_batch(run.info.run_id, [Metric("one", 8.0, 11, 15)])
        client.log_batch(run.info.run_id, [Metric("one", 9.0, 12, 16)])
        print("MODEL", [(m.key, m.value) for m in mlflow.get_logged_model(mlflow.get_active_model_id()).metrics])
    client.log_batch(run.info.run_id, [Metric("one", 10.0, 13, 17)])
client.log_batch(run.info.run_id, [Metric("one", 11.0, 14, 18)])
"""


@pytest.mark.slow
def test_a_batch_leaves_the_same_as_without_the_plug_in(sqlite_template: Path, tmp_path: Path) -> None:
    left = []
    for uri, printed in plain_and_installed(BATCHES, sqlite_template, tmp_path):
        run = named(uri, "batches")
        metrics = {key: sorted(map(repr, points)) for key, points in run.metrics().items()}
        said = {
            text.split()[0]: re.sub(r"timestamp=\d+", "", text)
            for text in printed
            if text.startswith(("CONVERTED", "REFUSED", "MODEL", "OTHER"))
        }
        left.append((metrics, run.params, run.status, said))
    plain, installed = left
    assert len(plain[0]["many"]) == 1500
    assert plain[3].pop("CONVERTED") == "CONVERTED [0.5, nan, inf, 0.5]"
    assert installed[3].pop("CONVERTED") == "CONVERTED []", "MLflow's client makes each metric anew"
    assert installed == plain
