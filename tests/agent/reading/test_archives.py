"""Runs that leave a store in an archive, and arrive in another one, each once; and archives that must be refused."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import DatasetInput, Metric, Param, RunTag

from helpers.sdk_tools import Store
from tailrace_agent.cli import main
from tailrace_agent.errors import ArchiveError, Unavailable
from tailrace_agent.reading import import_ as mlflow_import
from tailrace_agent.reading.archive import ArchiveReader
from tailrace_agent.reading.reader import open_reader

POINTS = [("loss", 0.5, 1_700_000_000_000 + i, i) for i in range(1500)]
ODD = [("odd", math.nan, 1_700_000_000_000, 3), ("odd", math.inf, 1_700_000_000_001, 4), ("odd", -math.inf, 5, 5)]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_PYTHON_REFRESH", "OMP_NUM_THREADS", "MLFLOW_LOGGING_LEVEL"):  # set by the commands
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


def tailrace(*arguments: str) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def copied(template: Path, directory: Path) -> str:
    directory.mkdir(exist_ok=True)
    shutil.copyfile(template, directory / "mlflow.db")
    return f"sqlite:///{directory}/mlflow.db"


class Made:
    """A store with a parent and its child, made by MLflow's own client, and the archive of both."""

    def __init__(self, template: Path, directory: Path) -> None:
        self.uri = copied(template, directory)
        client = MlflowClient(self.uri)
        experiment = client.create_experiment("made", artifact_location=(directory / "artifacts").as_uri())
        tags = {"mlflow.user": "ada", "colour": "red", "mlflow.note.content": "a note", "tailrace.extremes": "{}"}
        self.parent = client.create_run(experiment, 1_700_000_000_000, tags, "parent").info.run_id
        points = [Metric(*point) for point in POINTS + ODD]
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


@pytest.fixture(scope="module")
def made(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(sqlite_template, tmp_path_factory.mktemp("made"))


def imported(uri: str, *arguments: str) -> dict[str, Any]:
    result = tailrace("import", *arguments, "--tracking-uri", uri, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def all_runs(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    return list(client.search_runs([each.experiment_id for each in client.search_experiments()]))


@pytest.mark.parametrize("where", ["sqlite", "server"])
def test_an_imported_run_is_the_exported_one(made: Made, where: str, request: pytest.FixtureRequest) -> None:
    uri = request.getfixturevalue("sqlite_uri" if where == "sqlite" else "mlflow_server")
    told = imported(uri, made.archive)
    assert [(run["run_name"], run["outcome"]) for run in told["runs"]] == [
        ("parent", "imported"),
        ("child", "imported"),
    ]
    there, here = Store(made.uri, made.parent), Store(uri, told["runs"][0]["run_id"])
    assert here.params == there.params
    assert len(here.params) == 130
    assert {key: here.tags.get(key) for key in there.tags} == there.tags
    assert here.tags["tailrace.source.run_id"] == made.parent
    info = here.run.info
    assert (info.status, info.start_time, info.end_time) == ("FAILED", 1_700_000_000_000, 1_700_000_060_000)
    assert (info.run_name, info.experiment_id != "0") == ("parent", True)
    assert here.artifacts() == there.artifacts() == ["empty.txt", "notes/hello wörld.txt"]
    assert Path(here.client.download_artifacts(here.run_id, "notes/hello wörld.txt")).read_text() == "hello"
    assert here.run.inputs.dataset_inputs[0].dataset.name == "zeros"
    reader = open_reader(uri, "/")
    for key in ("loss", "odd"):
        ours, theirs = ([tuple(map(str, piece)) for piece in read.history(run, key)] for read, run in (
            (reader, here.run_id), (open_reader(made.uri, "/"), made.parent)
        ))  # fmt: skip
        assert ours == theirs
    child = Store(uri, told["runs"][1]["run_id"])
    assert child.tags["mlflow.parentRunId"] == here.run_id, "nested as before, by the new id"
    assert child.status == "KILLED", "nobody is at work on it here"


def test_a_run_arrives_once_however_often_it_is_imported(made: Made, sqlite_uri: str, tmp_path: Path) -> None:
    first = imported(sqlite_uri, made.archive, "--experiment", "mine")
    second = imported(sqlite_uri, made.archive)
    assert [run["outcome"] for run in second["runs"]] == ["there", "there"]
    assert [run["run_id"] for run in second["runs"]] == [run["run_id"] for run in first["runs"]]
    assert {run["experiment"] for run in second["runs"]} == {"mine"}
    assert len(all_runs(sqlite_uri)) == 2
    back = tmp_path / "back.zip"
    assert tailrace("export", "parent", "-o", back, "--tracking-uri", sqlite_uri).exit_code == 0
    home = imported(made.uri, back)
    assert [(run["outcome"], run["run_id"]) for run in home["runs"]] == [("there", made.parent)], "it has come home"


def test_an_import_that_was_cut_off_is_done_anew(made: Made, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: object, run_id: str, artifacts: Path) -> None:
        raise Unavailable("the server is gone")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_import._Import, "_send_artifacts", cut)
        result = tailrace("import", made.archive, "--tracking-uri", sqlite_uri)
    assert result.exit_code == 3
    assert "the server is gone" in result.stderr
    half = all_runs(sqlite_uri)
    assert [run.info.run_name for run in half] == ["parent"]
    assert "tailrace.extremes" not in half[0].data.tags, "it is of all points, and comes after them"
    told = imported(sqlite_uri, made.archive)
    assert [run["outcome"] for run in told["runs"]] == ["imported", "imported"]
    assert {run.info.run_name for run in all_runs(sqlite_uri)} == {"parent", "child"}
    store = Store(sqlite_uri, told["runs"][0]["run_id"])
    assert len(store.history("loss")) == 1500
    assert store.tags["tailrace.extremes"] == Store(made.uri, made.parent).tags["tailrace.extremes"]


def test_a_child_that_comes_later_finds_its_parent(made: Made, sqlite_uri: str, tmp_path: Path) -> None:
    for name in ("parent", "child"):
        assert tailrace("export", name, "-o", f"{name}.zip", "--tracking-uri", made.uri).exit_code == 0
    parent = imported(sqlite_uri, "parent.zip")["runs"][0]["run_id"]
    child = imported(sqlite_uri, "child.zip")["runs"][0]["run_id"]
    assert Store(sqlite_uri, child).tags["mlflow.parentRunId"] == parent
    assert tailrace("export", "parent", "--nested", "-o", "both.zip", "--tracking-uri", made.uri).exit_code == 0
    with ArchiveReader(Path("both.zip")) as archive:
        assert [run.run_name for run in archive.runs()] == ["parent", "child"]


def test_pandas_reads_the_metrics_of_an_archive(made: Made, tmp_path: Path) -> None:
    import pandas as pd

    with ArchiveReader(made.archive) as archive:
        metrics, artifacts = archive.unpack(made.parent, tmp_path)
    frame = pd.read_parquet(metrics)
    assert list(frame.columns) == ["key", "step", "timestamp", "value"]
    assert len(frame) == len(POINTS) + len(ODD)
    assert (artifacts / "notes" / "hello wörld.txt").read_text() == "hello"


def test_an_archive_is_not_replaced_unasked(made: Made) -> None:
    again = tailrace("export", "parent", "-o", made.archive, "--tracking-uri", made.uri)
    assert again.exit_code == 1
    assert "--force" in again.stderr


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            body = change(name, old.read(name))
            if body is not None:
                new.writestr(name, body)
    return target


def refused(archive: Path, uri: str) -> str:
    result = tailrace("import", archive, "--tracking-uri", uri)
    assert result.exit_code == 1, result.output
    assert all_runs(uri) == [], "nothing of it was created"
    return result.stderr


def test_a_damaged_archive_creates_nothing(made: Made, sqlite_uri: str, tmp_path: Path) -> None:
    def flipped(name: str, body: bytes) -> bytes:
        return b"hellO" if name.endswith("wörld.txt") else body

    def shortened(name: str, body: bytes) -> bytes | None:
        return None if name.endswith(f"{made.parent}/metrics.parquet") else body

    assert "hello wörld.txt is damaged" in refused(rewritten(made.archive, tmp_path / "a.zip", flipped), sqlite_uri)
    assert "metrics.parquet is missing" in refused(rewritten(made.archive, tmp_path / "b.zip", shortened), sqlite_uri)
    cut = tmp_path / "c.zip"
    cut.write_bytes(made.archive.read_bytes()[:-3000])
    assert "is no archive of runs" in refused(cut, sqlite_uri)


def test_an_archive_that_would_write_elsewhere_is_refused(made: Made, sqlite_uri: str, tmp_path: Path) -> None:
    for name in ("../../evil", "/evil", "runs/x/../../../evil", "runs//x", "runs/x/artifacts/.."):

        def planted(entry: str, body: bytes, name: str = name) -> bytes:
            if entry != "manifest.json":
                return body
            manifest = json.loads(body)
            manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
            return json.dumps(manifest).encode()

        assert "not safe" in refused(rewritten(made.archive, tmp_path / "slip.zip", planted), sqlite_uri)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, "no archive of runs"),
        ({"format": "other"}, "no archive of runs"),
        ({"format": "tailrace-runs", "version": 2}, "reads version 1"),
        ({"format": "tailrace-runs", "version": 1}, "damaged"),
        (
            {"format": "tailrace-runs", "version": 1, "created": "", "store": "", "runs": ["../x"], "files": {}},
            "damaged",
        ),
    ],
)
def test_what_is_no_archive_is_said_to_be_none(manifest: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("manifest.json" if manifest else "readme", json.dumps(manifest))
    with pytest.raises(ArchiveError, match=said):
        ArchiveReader(path)
