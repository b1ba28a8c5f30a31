"""Artifacts under names that are hard to keep: each arrives under its own name, or is said to lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import RunSpec
from tailrace_agent.mlflow.errors import translate
from tailrace_agent.sinks.mlflow import MlflowSink, open_sink

_KEPT = (
    "plain.txt", "why?.txt", "100%.txt", "50% off.txt", "a&b=c+d;e.txt", "ünï.txt", "x y.txt", "a:b.txt", "q\"'.txt",
    "%", "~tilde", "dot.", "[1]{2}.txt",
)  # fmt: skip
_TOLD = (
    "loss#1.txt",
    "loss#2.txt",
    "loss",
    "50%20off.txt",
    "50 off.txt",
    "a%23b",
    "na\nme.txt",
    "tab\tx.txt",
    "%2e%2e",
)


def opened(uri: str, number: int) -> tuple[MlflowSink, str]:
    # A server without MLflow; through it, the same code is tested in `tests/agent/sinks`.
    sink = open_sink(uri, str(Path.cwd()), request_timeout=20, own_process=True)
    assert isinstance(sink, MlflowSink)
    spec = RunSpec(run=number, start_time=1, cwd="/", experiment_name="artifact names")
    return sink, sink.open_run(spec, None, find_first=False).run_id


def files_of(uri: str, run_id: str, server_files: Path | None) -> dict[str, str]:
    """Every artifact of a run by its path, as it lies on the disk of the store."""
    run = MlflowClient(uri).get_run(run_id)
    if server_files is not None:
        root = server_files / run.info.experiment_id / run_id / "artifacts"
    else:
        root = Path(run.info.artifact_uri.removeprefix("file://"))
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["file by file", "directory"])
def test_no_two_artifacts_lie_on_one_name_and_what_is_renamed_is_told(
    store_uri: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, how: str
) -> None:
    sink, run_id = opened(store_uri, abs(hash(tmp_path)))
    folder = tmp_path / "files"
    folder.mkdir()
    for name in (*_KEPT, *_TOLD):
        (folder / name).write_text(name)
    told = {}
    if how == "directory":
        told = sink.log_artifacts(run_id, folder, "d")
    else:
        for name in (*_KEPT, *_TOLD):
            told |= sink.log_artifact(run_id, folder / name, "d")
    remote = store_uri.startswith("http")
    server_files = next(tmp_path_factory.getbasetemp().glob("server*/artifacts"), None) if remote else None
    found = files_of(store_uri, run_id, server_files)
    assert {name: told.get(f"d/{name}", f"d/{name}") for name in (*_KEPT, *_TOLD)} == {
        text: name for name, text in found.items()
    }
    assert not {f"d/{name}" for name in _KEPT} & told.keys()
    assert bool(told) is remote


def test_a_file_where_a_directory_must_be_is_refused_by_a_file_system_and_named(
    sqlite_uri: str, tmp_path: Path
) -> None:
    sink, run_id = opened(sqlite_uri, 7)
    (tmp_path / "a").write_text("file")
    (tmp_path / "b.txt").write_text("below")
    sink.log_artifact(run_id, tmp_path / "a", None)
    with pytest.raises(Refused, match=r"cannot be stored in .*artifacts.*/a"):
        sink.log_artifact(run_id, tmp_path / "b.txt", "a")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("x")
    sink.log_artifact(run_id, tmp_path / "d", None)
    (tmp_path / "other" / "d").parent.mkdir()
    (tmp_path / "other" / "d").write_text("a file of the directory's name")
    with pytest.raises(Refused, match="a directory of this name"):
        sink.log_artifact(run_id, tmp_path / "other" / "d", None)
    assert files_of(sqlite_uri, run_id, None) == {"a": "file", "d/x": "x"}


def test_a_disk_that_takes_nothing_refuses_nothing(sqlite_uri: str, tmp_path: Path) -> None:
    sink, run_id = opened(sqlite_uri, 8)
    (tmp_path / "a").write_text("file")
    root = Path(MlflowClient(sqlite_uri).get_run(run_id).info.artifact_uri.removeprefix("file://"))
    root.parent.parent.mkdir(parents=True, exist_ok=True)
    root.parent.write_text("in the way of every artifact of the run")
    with pytest.raises(Unavailable) as told:
        sink.log_artifact(run_id, tmp_path / "a", None)
    assert not told.value.away


@pytest.mark.parametrize("size", [3, 2 << 20])
def test_a_file_of_its_directorys_name_is_confirmed_found_and_fetched(
    store_uri: str, tmp_path: Path, size: int
) -> None:
    sink, run_id = opened(store_uri, abs(hash((tmp_path, size))) + 2)
    (tmp_path / "model").write_bytes(b"m" * size)
    sink.log_artifact(run_id, tmp_path / "model", "model")
    for name in ("a/a", "b/b"):
        (tmp_path / "both" / name).parent.mkdir(parents=True)
        (tmp_path / "both" / name).write_text(name)
    sink.log_artifacts(run_id, tmp_path / "both", None)
    (tmp_path / "back").mkdir()
    found = {name: sink.fetch_artifact(run_id, name, tmp_path / "back") for name in ("model/model", "a/a", "b/b")}
    assert {name: file and file.stat().st_size for name, file in found.items()} == {
        "model/model": size, "a/a": 3, "b/b": 3
    }  # fmt: skip


def test_what_a_server_says_of_one_artifact_is_not_said_of_the_server(mlflow_server: str, tmp_path: Path) -> None:
    sink, run_id = opened(mlflow_server, abs(hash(tmp_path)) + 1)
    (tmp_path / "a").write_text("file")
    (tmp_path / "b.txt").write_text("below")
    sink.log_artifact(run_id, tmp_path / "a", None)
    with pytest.raises(Unavailable, match="500") as told:
        sink.log_artifact(run_id, tmp_path / "b.txt", "a")
    assert not told.value.away

    not_found = requests.HTTPError("404 Not Found", response=requests.get(f"{mlflow_server}/nothing/here", timeout=20))
    error = translate(not_found, mlflow_server, remote=True, about_run=True, upload=True)
    assert isinstance(error, Unavailable)
    assert "no MLflow server" not in str(error)
    assert "no place for this artifact (404)" in str(error)
