"""What MLflow's own calls do with the store plug-in in place: `tailrace.store.placed_store`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.sdk_tools import Store, forget, script

FLUENT = """
import json, os, sys, threading
import tailrace, mlflow
from mlflow.entities import Metric, Param, RunTag

tailrace.install()
client = mlflow.MlflowClient()
told = {"isinstance": [kind.__name__ for kind in type(client._tracking_client.store).__mro__]}

def refusal(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except mlflow.MlflowException as error:
        return [error.error_code, str(error)]

mlflow.set_experiment("fluent-" + os.environ["NAME"])
with mlflow.start_run(run_name="whole") as run:
    run_id = run.info.run_id
    mlflow.log_param("lr", 0.1)
    mlflow.log_params({"layers": 3, "name": "net"})
    mlflow.set_tag("team", "vision")
    mlflow.set_tags({"phase": "one", "gone": "soon"})
    for step in range(50):
        mlflow.log_metrics({"loss": 1.0 / (step + 1), "accuracy": step / 50}, step=step)
    mlflow.log_metric("single", 2.5)
    mlflow.log_metric("at", 1.0, step=3, timestamp=1234567)
    mlflow.log_metric("later", 1.0, step=2)
    mlflow.log_metric("later", 2.0, step=1)
    client.log_batch(
        run_id,
        [Metric("batch", float(n), 1000 + n, n) for n in range(7)] + [Metric("batch", 9.0, 1000, 0)],
        [Param("batched", "yes")],
        [RunTag("batched", "yes")],
    )
    operation = mlflow.log_metric("async", 1.0, synchronous=False)
    operation.wait()
    mlflow.log_params({"async": 1}, synchronous=False).wait()
    mlflow.set_tags({"async": "1"}, synchronous=False).wait()
    client.log_batch(run_id, metrics=[Metric("async_batch", 1.0, 5, 0)], synchronous=False).wait()
    seen = mlflow.get_run(run_id)
    told["seen"] = {"metrics": seen.data.metrics, "params": seen.data.params, "tags": dict(seen.data.tags)}
    told["history"] = len(client.get_metric_history(run_id, "loss"))
    client.delete_tag(run_id, "gone")
    told["without"] = "gone" in mlflow.get_run(run_id).data.tags
    told["changed"] = refusal(mlflow.log_param, "lr", 0.2)
    told["changed_batch"] = refusal(mlflow.log_params, {"layers": 4})
    told["same"] = refusal(mlflow.log_param, "lr", 0.1)
    told["bad_metric"] = refusal(mlflow.log_metric, "loss(train)", 1.0)
    told["bad_in_batch"] = refusal(mlflow.log_metrics, {"good": 1.0, "loss(train)": 1.0})
    told["bad_param"] = refusal(mlflow.log_param, "a//b", 1)
    told["bad_tag"] = refusal(mlflow.set_tag, "k" * 251, 1)
    told["no_number"] = refusal(mlflow.log_metric, "word", "high")
    told["no_run"] = refusal(client.log_metric, "0" * 32, "loss", 1.0)
    with mlflow.start_run(nested=True, run_name="below") as below:
        mlflow.log_metric("inner", 1.0)
    found = mlflow.search_runs(filter_string="metrics.inner = 1", output_format="list")
    told["found"] = [each.info.run_id == below.info.run_id for each in found]
    threads = {thread.name for thread in threading.enumerate()}
    told["threads"] = [name for name in threads if "MLflowAsync" in name or "MLflowBatch" in name]
told["ended"] = mlflow.get_run(run_id).info.status
told["end_time"] = mlflow.get_run(run_id).info.end_time is not None
mlflow.log_metric("after", 1.0, run_id=run_id)
with mlflow.start_run(run_id=run_id):
    told["resumed"] = mlflow.get_run(run_id).info.status
    mlflow.log_metric("resumed", 1.0)
try:
    with mlflow.start_run(run_name="failed") as failed:
        mlflow.log_metric("x", 1.0)
        raise ValueError("no")
except ValueError:
    pass
by_client = client.create_run(run.info.experiment_id, run_name="by client").info.run_id
client.log_metric(by_client, "loss", 1.0)
client.set_terminated(by_client, "KILLED")
open_run = client.create_run(run.info.experiment_id, run_name="left open").info.run_id
client.log_metric(open_run, "loss", 1.0)
client.update_run(open_run, name="renamed")
deleted = client.create_run(run.info.experiment_id).info.run_id
client.log_metric(deleted, "loss", 1.0)
client.delete_run(deleted)
told["deleted"] = refusal(client.log_metric, deleted, "loss", 2.0)
mlflow.start_run(run_name="left active")
mlflow.start_run(run_name="left active below", nested=True)
mlflow.log_metric("loss", 1.0)
told["ids"] = {
    "whole": run_id, "below": below.info.run_id, "failed": failed.info.run_id, "by_client": by_client,
    "open": open_run, "left": mlflow.active_run().info.run_id,
}
print("TOLD " + json.dumps(told))
"""


class Told:
    """What a script has printed, and where its runs are."""

    def __init__(self, uri: str, output: str) -> None:
        self.uri = uri
        self.values: dict[str, Any] = json.loads(output.rpartition("TOLD ")[2].split("\n")[0])

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def run(self, name: str) -> Store:
        return Store(self.uri, self["ids"][name])


@pytest.fixture(scope="module", params=["sqlite", "server"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """All that one program told, once against SQLite and once against a server."""
    directory = tmp_path_factory.mktemp("fluent")
    uri = f"sqlite:///{directory}/mlflow.db" if request.param == "sqlite" else request.getfixturevalue("mlflow_server")
    variables = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "TAILRACE_METADATA": "false"}
    done = script(directory, FLUENT, NAME=request.param, **variables)
    forget(directory)
    return Told(uri, done.stdout)


@pytest.mark.slow
def test_the_store_is_still_one_of_its_own_class(told: Told) -> None:
    expected = "SqlAlchemyStore" if told.uri.startswith("sqlite") else "RestStore"
    assert told["isinstance"][0] == f"Tailrace{expected}"
    assert expected in told["isinstance"]


@pytest.mark.slow
def test_a_run_read_back_at_once_has_what_was_logged_a_moment_ago(told: Told) -> None:
    seen = told["seen"]
    expected = {"loss": 1 / 50, "accuracy": 49 / 50, "single": 2.5, "at": 1.0, "later": 1.0, "batch": 6.0}
    assert seen["metrics"] == expected | {"async": 1.0, "async_batch": 1.0}
    assert seen["params"] == {"lr": "0.1", "layers": "3", "name": "net", "batched": "yes", "async": "1"}
    tags = {"team": "vision", "phase": "one", "gone": "soon", "batched": "yes", "async": "1", "mlflow.runName": "whole"}
    assert tags.items() <= seen["tags"].items()


@pytest.mark.slow
def test_a_history_and_a_search_have_all_that_was_logged_before(told: Told) -> None:
    assert told["history"] == 50
    assert told["found"] == [True]


@pytest.mark.slow
def test_a_tag_that_was_deleted_is_gone(told: Told) -> None:
    assert told["without"] is False
    assert "gone" not in told.run("whole").tags


@pytest.mark.slow
def test_what_mlflow_refuses_is_refused_at_the_call(told: Told) -> None:
    refused = ("changed", "changed_batch", "bad_metric", "bad_in_batch", "bad_param", "bad_tag", "no_number")
    codes = {name: told[name] and told[name][0] for name in refused}
    assert codes == dict.fromkeys(refused, "INVALID_PARAMETER_VALUE")
    assert "Changing param values is not allowed" in told["changed"][1]
    assert "key='lr' was already logged with value='0.1'" in told["changed"][1]
    assert "loss(train)" in told["bad_metric"][1]
    assert told["same"] is None
    assert "good" not in told.run("whole").metrics()


@pytest.mark.slow
def test_a_run_that_there_is_not_or_is_deleted_takes_nothing(told: Told) -> None:
    assert told["no_run"][0] == "RESOURCE_DOES_NOT_EXIST"
    assert told["deleted"][0] == "INVALID_PARAMETER_VALUE"


@pytest.mark.slow
def test_no_thread_of_mlflow_s_logs_anything(told: Told) -> None:
    assert told["threads"] == []


@pytest.mark.slow
def test_everything_is_in_the_store_afterwards(told: Told) -> None:
    whole = told.run("whole")
    metrics = whole.metrics()
    assert metrics["loss"] == [(step, 1 / (step + 1)) for step in range(50)]
    assert sorted(metrics["later"]) == [(1, 2.0), (2, 1.0)]
    assert sorted(metrics["batch"]) == [(0, 0.0), (0, 9.0), *((n, float(n)) for n in range(1, 7))]
    (at,) = whole.client.get_metric_history(whole.run_id, "at")
    assert (at.timestamp, at.step) == (1234567, 3)
    assert {"after", "resumed", "single", "async", "async_batch"} <= metrics.keys()
    assert whole.params == told["seen"]["params"]


@pytest.mark.slow
def test_runs_end_as_they_were_ended(told: Told) -> None:
    assert (told["ended"], told["end_time"], told["resumed"]) == ("FINISHED", True, "RUNNING")
    expected = {"whole": "FINISHED", "below": "FINISHED", "failed": "FAILED", "by_client": "KILLED", "left": "FINISHED"}
    assert {name: told.run(name).status for name in expected} == expected


@pytest.mark.slow
def test_a_run_that_nobody_ended_stays_running_when_its_program_ends(told: Told) -> None:
    left = told.run("open")
    assert (left.status, left.run.info.end_time, left.run.info.run_name) == ("RUNNING", None, "renamed")
    assert left.metrics() == {"loss": [(0, 1.0)]}


@pytest.mark.slow
def test_a_nested_run_has_its_parent(told: Told) -> None:
    below = told.run("below")
    assert below.tags["mlflow.parentRunId"] == told["ids"]["whole"]
    assert below.metrics() == {"inner": [(0, 1.0)]}


AUTOLOG = """
import sys
import mlflow, numpy
from sklearn.linear_model import LinearRegression
if sys.argv[1:] != ["plain"]:
    import tailrace
    tailrace.install()
mlflow.sklearn.autolog(log_models=False)
x = numpy.arange(20.0).reshape(-1, 1)
LinearRegression().fit(x, 3 * x.ravel())
with mlflow.start_run(run_name="within"):
    LinearRegression(fit_intercept=False).fit(x, 3 * x.ravel())
runs = mlflow.search_runs(output_format="list")
print(" ".join(run.info.run_id for run in reversed(runs)))
"""


@pytest.mark.slow
def test_autologging_of_scikit_learn_stores_what_it_does_without_the_plug_in(sqlite_uri: str, tmp_path: Path) -> None:
    found = []
    for name in ("plain", "plugged"):
        directory = tmp_path / name
        directory.mkdir()
        uri = f"sqlite:///{directory}/mlflow.db"
        code = AUTOLOG.replace("sys.argv[1:]", f"[{name!r}]")
        done = script(directory, code, MLFLOW_TRACKING_URI=uri)
        ids = done.stdout.split()[-2:]
        found.append([_what_is_stored(Store(uri, run_id)) for run_id in ids])
        forget(directory)
    plain, plugged = found
    assert plugged == plain
    assert plain[0]["params"]["fit_intercept"] == "True"
    assert "training_r2_score" in plain[0]["metrics"]


def _what_is_stored(run: Store) -> dict[str, object]:
    own = ("mlflow.", "tailrace.")  # among MLflow's are a random name and the script's place
    return {
        "status": run.status,
        "params": run.params,
        "metrics": run.metrics(),
        "tags": {key: value for key, value in run.tags.items() if not key.startswith(own)},
        "artifacts": run.artifacts(),
    }


AWAY = """
import mlflow, tailrace
tailrace.install()
try:
    mlflow.start_run()
except mlflow.MlflowException as error:
    print(type(error).__name__)
"""


@pytest.mark.slow
def test_a_server_that_is_away_when_a_run_begins_is_mlflow_s_own_error(tmp_path: Path) -> None:
    done = script(tmp_path, AWAY, MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.stdout.split() == ["MlflowException"]


READ_WHILE_DELIVERED = """
import json, time
import mlflow, tailrace
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

tailrace.install()
client = mlflow.MlflowClient()
read = SqlAlchemyStore.get_run
waited = []

def answered_late(store, run_id):
    # What the store had when it was asked comes back when all that was on the way then is there.
    found = read(store, run_id)
    deadline = time.monotonic() + 60
    while waited and not waited[0](read(store, run_id)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found

SqlAlchemyStore.get_run = answered_late
with mlflow.start_run() as run:
    client.get_run(run.info.run_id)
    mlflow.log_metric("loss", 0.5)
    mlflow.set_tag("phase", "one")
    waited[:] = [lambda found: "loss" in found.data.metrics and "phase" in found.data.tags]
    seen = client.get_run(run.info.run_id).data
    waited.clear()
waited[:] = [lambda found: found.info.status == "FINISHED"]
ended = client.get_run(run.info.run_id).info.status
print("SEEN", json.dumps([seen.metrics, seen.tags.get("phase"), ended]))
"""


@pytest.mark.slow
def test_what_is_delivered_while_the_store_answers_is_in_the_answer(sqlite_uri: str, tmp_path: Path) -> None:
    done = script(tmp_path, READ_WHILE_DELIVERED, MLFLOW_TRACKING_URI=sqlite_uri)
    forget(tmp_path)
    assert json.loads(done.stdout.rpartition("SEEN ")[2].split("\n")[0]) == [{"loss": 0.5}, "one", "FINISHED"]
