"""Runs that arrive in a store out of an archive, each once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import tailrace
from helpers.sdk_tools import Store, newer_than_mlflow_3_7
from helpers.stored_runs import Archived, all_runs
from tailrace_agent.errors import Unavailable
from tailrace_agent.reading import import_ as mlflow_import
from tailrace_agent.reading.archive import ArchiveReader
from tailrace_agent.reading.reader import open_reader


def imported(uri: str, *arguments: str) -> dict[str, Any]:
    result = tailrace("import", *arguments, "--tracking-uri", uri, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    ["sqlite", pytest.param("server", marks=newer_than_mlflow_3_7("downloads no file with an umlaut from its server"))],
)
def test_an_imported_run_is_the_exported_one(archived: Archived, where: str, request: pytest.FixtureRequest) -> None:
    uri = request.getfixturevalue("sqlite_uri" if where == "sqlite" else "mlflow_server")
    told = imported(uri, archived.archive)
    assert [(run["run_name"], run["outcome"]) for run in told["runs"]] == [
        ("parent", "imported"),
        ("child", "imported"),
    ]
    there, here = Store(archived.uri, archived.parent), Store(uri, told["runs"][0]["run_id"])
    assert here.params == there.params
    assert len(here.params) == 130
    assert {key: here.tags.get(key) for key in there.tags} == there.tags
    assert here.tags["tailrace.source.run_id"] == archived.parent
    info = here.run.info
    assert (info.status, info.start_time, info.end_time) == ("FAILED", 1_700_000_000_000, 1_700_000_060_000)
    assert (info.run_name, info.experiment_id != "0") == ("parent", True)
    assert here.artifacts() == there.artifacts() == ["empty.txt", "notes/hello wörld.txt"]
    assert Path(here.client.download_artifacts(here.run_id, "notes/hello wörld.txt")).read_text() == "hello"
    assert here.run.inputs.dataset_inputs[0].dataset.name == "zeros"
    reader = open_reader(uri, "/")
    for key in ("loss", "odd"):
        ours, theirs = ([tuple(map(str, piece)) for piece in read.history(run, key)] for read, run in (
            (reader, here.run_id), (open_reader(archived.uri, "/"), archived.parent)
        ))  # fmt: skip
        assert ours == theirs
    child = Store(uri, told["runs"][1]["run_id"])
    assert child.tags["mlflow.parentRunId"] == here.run_id, "nested as before, by the new id"
    assert child.status == "KILLED", "nobody is at work on it here"


@pytest.mark.slow
def test_a_run_arrives_once_however_often_it_is_imported(archived: Archived, sqlite_uri: str, tmp_path: Path) -> None:
    first = imported(sqlite_uri, archived.archive, "--experiment", "mine")
    second = imported(sqlite_uri, archived.archive)
    assert [run["outcome"] for run in second["runs"]] == ["there", "there"]
    assert [run["run_id"] for run in second["runs"]] == [run["run_id"] for run in first["runs"]]
    assert {run["experiment"] for run in second["runs"]} == {"mine"}
    assert len(all_runs(sqlite_uri)) == 2
    back = tmp_path / "back.zip"
    assert tailrace("export", "parent", "-o", back, "--tracking-uri", sqlite_uri).exit_code == 0
    home = imported(archived.uri, back)
    assert [(run["outcome"], run["run_id"]) for run in home["runs"]] == [("there", archived.parent)], "it has come home"


@pytest.mark.slow
def test_an_import_that_was_cut_off_is_done_anew(
    archived: Archived, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: object, run_id: str, artifacts: Path) -> None:
        raise Unavailable("the server is gone")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_import._Import, "_send_artifacts", cut)
        result = tailrace("import", archived.archive, "--tracking-uri", sqlite_uri)
    assert result.exit_code == 3
    assert "the server is gone" in result.stderr
    half = all_runs(sqlite_uri)
    assert [run.info.run_name for run in half] == ["parent"]
    assert "tailrace.extremes" not in half[0].data.tags, "it is of all points, and comes after them"
    told = imported(sqlite_uri, archived.archive)
    assert [run["outcome"] for run in told["runs"]] == ["imported", "imported"]
    assert {run.info.run_name for run in all_runs(sqlite_uri)} == {"parent", "child"}
    store = Store(sqlite_uri, told["runs"][0]["run_id"])
    assert len(store.history("loss")) == 1500
    assert store.tags["tailrace.extremes"] == Store(archived.uri, archived.parent).tags["tailrace.extremes"]


@pytest.mark.slow
def test_a_child_that_comes_later_finds_its_parent(archived: Archived, sqlite_uri: str, tmp_path: Path) -> None:
    for name in ("parent", "child"):
        assert tailrace("export", name, "-o", f"{name}.zip", "--tracking-uri", archived.uri).exit_code == 0
    parent = imported(sqlite_uri, "parent.zip")["runs"][0]["run_id"]
    child = imported(sqlite_uri, "child.zip")["runs"][0]["run_id"]
    assert Store(sqlite_uri, child).tags["mlflow.parentRunId"] == parent
    assert tailrace("export", "parent", "--nested", "-o", "both.zip", "--tracking-uri", archived.uri).exit_code == 0
    with ArchiveReader(Path("both.zip")) as archive:
        assert [run.run_name for run in archive.runs()] == ["parent", "child"]
