"""Stores with runs in them, made once for the tests that read: of every kind, of one name twice, and an archive."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from click.testing import Result
from mlflow import MlflowClient
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import DatasetInput, Metric, Param, RunTag

from helpers.commands import tailrace
from helpers.sdk_tools import tracking

__all__ = [
    "EXPERIMENT",
    "NOT_FINITE",
    "ODD_NAMES",
    "POINTS",
    "AllKinds",
    "Archived",
    "SameNames",
    "all_runs",
    "copied",
    "made_to_be_read",
]

_DAY = 86_400_000
_NOW = int(time.time() * 1000)
ODD_NAMES = ["r%x", "it's", 'say "hi"', 'it\'s "both"', "run_1", "back\\slash", "set[1]"]
ODD_NAMES += ["semi;colon -- x", "cafe", "ünï"]
EXPERIMENT = "reading"
POINTS = [("loss", 0.5, 1_700_000_000_000 + i, i) for i in range(1500)]
NOT_FINITE = [("odd", math.nan, 1_700_000_000_000, 3), ("odd", math.inf, 1_700_000_000_001, 4)]
NOT_FINITE += [("odd", -math.inf, 5, 5)]


def copied(template: Path, directory: Path) -> str:
    """A fresh store in a directory."""
    directory.mkdir(exist_ok=True)
    shutil.copyfile(template, directory / "mlflow.db")
    return f"sqlite:///{directory}/mlflow.db"


def all_runs(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    return list(client.search_runs([each.experiment_id for each in client.search_experiments()]))


def made_to_be_read(uri: str) -> dict[str, str]:
    """Makes two runs of one experiment, and one of another; their ids by name."""
    ids = {}
    with tracking(uri, experiment_name=EXPERIMENT) as tracker:
        for name, rate in (("read-small", 0.1), ("read-wide", 0.2)):
            with tracker.start_run(run_name=name, params={"lr": rate, "seed": 7}) as run:
                for step in range(5):
                    run.log(step=step, loss=rate * (step - 2) ** 2, ok=1.0)
                run.log(step=5, odd=math.nan)
                run.log(step=6, odd=math.inf)
                run.log(step=7, odd=-math.inf)
                run.log(step=0, **{"read-small": {"score": 1.0}, "read-wide": {"score": math.nan}}[name])
            ids[name] = run.run_id
            ids[f"{name} here"] = run.id
        with tracker.start_run(run_name="elsewhere", experiment_name="reading-other") as run:
            run.log(loss=-5.0)
        ids["elsewhere"] = run.run_id
    return ids


class AllKinds:
    """A store with runs of every kind; `run` calls the command line on it."""

    def __init__(self, uri: str) -> None:
        self.uri, self.client = uri, MlflowClient(uri)
        self.ids: dict[str, str] = {}
        self.other = self.client.create_experiment("other")
        self.add("good", "FINISHED", 40, loss=0.1, params={"lr": "0.1", "seed": "7"})
        self.add("better", "FINISHED", 2, loss=0.05, params={"lr": "0.2", "seed": "7"})
        self.add("failed-old", "FAILED", 40, loss=1.0)
        self.add("failed-new", "FAILED", 1, loss=1.0)
        self.add("empty", "KILLED", 3)
        self.add("files", "KILLED", 3)
        self.client.log_text(self.ids["files"], "x", "x.txt")
        self.add("live", None, 50)
        self.add("evil \x1b[31m", "FINISHED", 5, loss=9.0, experiment=self.other)
        self.add("nested parent", "FAILED", 60, loss=1.0)
        self.add("nested child", "FINISHED", 1, loss=1.0, tags={"mlflow.parentRunId": self.ids["nested parent"]})
        self.add("model", "FAILED", 70, loss=1.0)
        self.client.create_registered_model("kept")
        self.client.create_model_version("kept", "file:///nowhere", self.ids["model"])

    def add(
        self,
        name: str,
        status: str | None,
        days: int,
        *,
        loss: float | None = None,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        experiment: str = "0",
    ) -> None:
        at = _NOW - days * _DAY
        run_id = self.ids[name] = self.client.create_run(experiment, at, tags, name).info.run_id
        points = [Metric("val/loss", loss * (3 - step), at, step) for step in range(3)] if loss else []
        self.client.log_batch(run_id, points, [Param(*each) for each in (params or {}).items()])
        if status is not None:
            self.client.set_terminated(run_id, status, at + 60_000)

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        return tailrace(*arguments, "--tracking-uri", self.uri, stdin=stdin)

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def going(self, *arguments: str) -> set[str]:
        return {run["run_name"] for run in self.json("gc", "--dry-run", *arguments)["deleted"]}


class SameNames:
    """Two stores of one machine: `base` three times, once in the other store; MLflow refuses a param of two."""

    def __init__(self, directory: Path, template: Path) -> None:
        self.uris = [f"sqlite:///{shutil.copyfile(template, directory / f'{name}.db')}" for name in ("first", "second")]
        self.state = str(directory / "state")
        self.ids: list[str] = []
        for uri, rate in ((self.uris[0], 0.1), (self.uris[0], 0.2), (self.uris[1], 0.3)):
            with (
                tracking(uri, dir=self.state) as tracker,
                tracker.start_run(run_name="base", params={"lr": rate}) as run,
            ):
                run.log({"val/loss": rate, "good": 1.0}, step=0)
                run.log_params({"bad": 1})
                run.log_params({"bad": 2 if rate < 0.3 else 1})
            self.ids.append(run.run_id)
        with tracking(self.uris[0], dir=self.state) as tracker, tracker.start_run(run_name="run_1") as run:
            run.log({"a-b c:d": 2.0}, step=0)
        client = MlflowClient(self.uris[0])
        for name in set(ODD_NAMES) - {"run_1"}:
            client.log_metric(client.create_run("0", run_name=name).info.run_id, "a-b c:d", 2.0)

    def tailrace(self, *arguments: str) -> Result:
        return tailrace("--dir", self.state, *arguments)


class Archived:
    """A store with a parent and its child, made by MLflow's own client, and the archive of both."""

    def __init__(self, template: Path, directory: Path) -> None:
        self.uri = copied(template, directory)
        client = MlflowClient(self.uri)
        experiment = client.create_experiment("made", artifact_location=(directory / "artifacts").as_uri())
        tags = {"mlflow.user": "ada", "colour": "red", "mlflow.note.content": "a note", "tailrace.extremes": "{}"}
        self.parent = client.create_run(experiment, 1_700_000_000_000, tags, "parent").info.run_id
        points = [Metric(*point) for point in POINTS + NOT_FINITE]
        for start in (0, 1000):
            client.log_batch(self.parent, points[start : start + 1000])
        params = [Param(f"p{i}", str(i)) for i in range(130)]
        for start in (0, 100):
            client.log_batch(self.parent, params=params[start : start + 100])
        client.log_batch(self.parent, tags=[RunTag(f"t{i}", str(i)) for i in range(90)])
        client.log_text(self.parent, "hello", "notes/hello wörld.txt")
        client.log_text(self.parent, "", "empty.txt")
        data = from_numpy(__import__("numpy").zeros(3), name="zeros")
        client.log_inputs(self.parent, [DatasetInput(data._to_mlflow_entity(), [])])
        client.set_terminated(self.parent, "FAILED", 1_700_000_060_000)
        child_tags = {"mlflow.parentRunId": self.parent}
        self.child = client.create_run(experiment, 1_700_000_001_000, child_tags, "child").info.run_id
        self.archive = directory / "runs.tailrace.zip"
        result = tailrace("export", self.child, "parent", "-o", self.archive, "--tracking-uri", self.uri)
        assert result.exit_code == 0, result.output
        assert "child is still running" in result.stderr
        assert result.stdout.startswith("2 runs in")
