"""Runs out of a store into an archive, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers.stored_runs import POINTS, Archived
from tailrace_agent.reading.archive import ArchiveReader, ArchiveWriter
from tailrace_agent.reading.archived_points import points_of
from tailrace_agent.reading.export import SOURCE_TAG, children_of, export_runs
from tailrace_agent.reading.reader import open_reader


@pytest.fixture
def exported(archived: Archived, tmp_path: Path) -> Path:
    """The archive of one run, with what was reported on the way beside it."""
    reader, steps = open_reader(archived.uri, "/"), list[tuple[str, int, int, str]]()
    export_runs(reader, [reader.find(archived.parent)], tmp_path / "x.zip", lambda *step: steps.append(step))
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    return tmp_path / "x.zip"


def test_all_of_a_run_is_in_its_archive(archived: Archived, exported: Path, tmp_path: Path) -> None:
    with ArchiveReader(exported) as archive:
        (run,) = archive.runs()
        metrics, artifacts = archive.unpack(run.run_id, tmp_path)
    assert (run.run_id, run.origin, run.run_name, run.experiment, run.user) == (
        archived.parent, archived.parent, "parent", "made", "ada",
    )  # fmt: skip
    assert (run.status, run.start_time, run.end_time) == ("FAILED", 1_700_000_000_000, 1_700_000_060_000)
    assert (run.points, run.artifacts, len(run.params), len(run.inputs)) == (1503, 2, 130, 1)
    points = [point for some in points_of(metrics, 1000, run) for point in some]
    assert [tuple(point) for point in points if point.key == "loss"] == POINTS
    assert {str(point.value) for point in points if point.key == "odd"} == {"nan", "inf", "-inf"}
    assert sorted(str(file.relative_to(artifacts)) for file in artifacts.rglob("*.txt")) == [
        "empty.txt", "notes/hello wörld.txt",
    ]  # fmt: skip


def test_it_is_reported_how_far_it_is(exported: Path) -> None:
    steps = json.loads((exported.parent / "steps.json").read_text())
    assert {name for name, *_ in steps} == {"parent"}
    assert [step[1:] for step in steps][-3:] == [[1503, 0, "metrics"], [0, 2, "artifacts"], [1, 2, "artifacts"]]


def test_an_imported_run_keeps_the_id_under_which_it_was_logged(sqlite_uri: str, tmp_path: Path) -> None:
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run("0", tags={SOURCE_TAG: "a" * 32}).info.run_id
    reader = open_reader(sqlite_uri, "/")
    export_runs(reader, [reader.find(run_id)], tmp_path / "x.zip", lambda *_: None)
    with ArchiveReader(tmp_path / "x.zip") as archive:
        (run,) = archive.runs()
    assert (run.run_id, run.origin, run.points, run.status) == (run_id, "a" * 32, 0, "RUNNING")


def test_a_file_of_its_directorys_name_is_in_the_archive(store_uri: str, tmp_path: Path) -> None:
    client = MlflowClient(store_uri)
    run_id = client.create_run("0").info.run_id
    client.log_text(run_id, "text", "model/model")
    reader = open_reader(store_uri, "/")
    export_runs(reader, [reader.find(run_id)], tmp_path / "x.zip", lambda *_: None)
    with ArchiveReader(tmp_path / "x.zip") as archive:
        _, artifacts = archive.unpack(run_id, tmp_path)
    assert (artifacts / "model" / "model").read_text() == "text"


def test_all_below_a_run_are_its_children_each_once(sqlite_uri: str) -> None:
    client, reader = MlflowClient(sqlite_uri), open_reader(sqlite_uri, "/")

    def make(under: str | None) -> str:
        tags = {} if under is None else {"mlflow.parentRunId": under}
        return client.create_run("0", tags=tags).info.run_id

    top = make(None)
    first, second = make(top), make(top)
    below = make(first)
    client.set_tag(top, "mlflow.parentRunId", below)  # tags may name anything
    make(None)
    found = [run.info.run_id for run in children_of(reader, [reader.find(top)])]
    assert sorted(found) == sorted([first, second, below])
    assert children_of(reader, [reader.find(second)]) == []


def test_an_export_that_fails_leaves_what_was_there(
    archived: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.zip").write_text("from before")

    def fails(self: ArchiveWriter, run_id: str, path: str, file: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ArchiveWriter, "add_artifact", fails)
    reader = open_reader(archived.uri, "/")
    with pytest.raises(OSError, match="No space"):
        export_runs(reader, [reader.find(archived.parent)], tmp_path / "x.zip", lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]
    assert (tmp_path / "x.zip").read_text() == "from before"
