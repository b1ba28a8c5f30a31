"""From an artifact's record to what is uploaded."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.delivery_rigs import UploadRig, fails
from tailrace_agent.delivery.artifact_source import ArtifactSource, CutShort, artifact_file
from tailrace_agent.errors import Unavailable
from tailrace_agent.ipc.records import Artifact
from tailrace_agent.sinks.memory import MemorySink


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[UploadRig]:
    rig = UploadRig(tmp_path)
    yield rig
    rig.spool.close()


def table(*rows: int) -> str:
    return json.dumps({"columns": ["n"], "data": [[row] for row in rows]})


def rows_of(text: bytes) -> list[int]:
    return [row[0] for row in json.loads(text)["data"]]


@pytest.mark.parametrize("what", ["entry", "contents"])
@pytest.mark.parametrize("append", [False, True])
def test_a_staged_copy_that_is_gone_is_counted_and_told(rig: UploadRig, what: str, *, append: bool) -> None:
    rig.start()
    entry = rig.stage({"a.txt": table(1)}, append=append)
    (entry / "a.txt").unlink()
    if what == "entry":
        entry.rmdir()
    rig.stage({"b.txt": "b"})
    rig.run()
    assert rig.of().artifacts == {"b.txt": b"b"}
    assert rig.counts().dropped == {"staged copy is gone": 1}
    assert "is gone" in rig.notices()[0]


def test_a_table_grows_call_by_call(rig: UploadRig) -> None:
    rig.start()
    for number in range(4):
        rig.stage({"eval.json": table(number)}, artifact_path="t", append=True)
        if number % 2:
            rig.run()
            assert rows_of(rig.of().artifacts["t/eval.json"]) == list(range(number + 1))
    assert (rig.counts().delivered, rig.counts().pending) == (4, 0)


def test_tables_of_different_names_folders_and_runs_are_kept_apart(rig: UploadRig) -> None:
    for run in (1, 2):
        rig.start(run)
        rig.stage({"a.json": table(run)}, run=run, append=True)
    rig.stage({"b.json": table(3)}, append=True)
    rig.stage({"a.json": table(4)}, artifact_path="x", append=True)
    rig.run()
    found = {name: rows_of(text) for name, text in rig.of(1).artifacts.items()}
    assert found == {"a.json": [1], "b.json": [3], "x/a.json": [4]}
    assert {name: rows_of(text) for name, text in rig.of(2).artifacts.items()} == {"a.json": [2]}


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_part_of_a_table_whose_upload_fails_is_tried_again(
    rig: UploadRig, times: int, *, after: bool, restart: bool
) -> None:
    rig.start()
    rig.stage({"eval.json": table(1)}, append=True)
    rig.run()
    fails(rig, Unavailable("away"), "log_artifact", times=times, after=after)
    rig.stage({"eval.json": table(2)}, append=True)
    rig.stage({"eval.json": table(3)}, append=True)
    rig.run(0.05)
    if restart:
        rig.restart()
    rig.run()
    assert rows_of(rig.of().artifacts["eval.json"]) == [1, 2, 3]
    assert (rig.counts().delivered, rig.counts().dropped, rig.counts().pending) == (3, {}, 0)


def test_a_part_that_is_no_table_is_a_dead_letter_and_the_others_arrive(rig: UploadRig) -> None:
    rig.start()
    for text in (table(1), "{ no table", table(2)):
        rig.stage({"eval.json": text}, append=True)
    rig.run()
    assert rows_of(rig.of().artifacts["eval.json"]) == [1, 2]
    assert (rig.counts().delivered, rig.counts().dead, rig.counts().pending) == (2, 1, 0)
    assert "part of a table" in rig.notices()[0]


@pytest.fixture
def source(tmp_path: Path) -> ArtifactSource:
    (tmp_path / "artifacts" / "e").mkdir(parents=True)
    return ArtifactSource(tmp_path / "artifacts")


def test_the_entry_gives_its_name_and_the_record_its_folder(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    assert artifact_file(Artifact(1, "e", "p"), tmp_path) == "p/e"  # nothing is left of it: by its own name
    (tmp_path / "e" / "plot.png").touch()
    assert artifact_file(Artifact(1, "e", "p"), tmp_path) == "p/plot.png"
    assert artifact_file(Artifact(1, "e"), tmp_path) == "plot.png"
    assert artifact_file(Artifact(1, "../e"), tmp_path) == "../e"


@pytest.mark.parametrize(("size", "fits"), [(None, True), (3, True), (4, False), (0, False)])
def test_a_copy_that_has_not_the_bytes_that_it_had_is_not_uploaded(
    source: ArtifactSource, tmp_path: Path, size: int | None, fits: bool
) -> None:
    file = tmp_path / "artifacts" / "e" / "model.bin"
    file.write_bytes(b"abc")
    record = Artifact(1, "e", size=size)
    if fits:
        assert source.open(record, MemorySink(), "run", resumed=False) == file
    else:
        with pytest.raises(CutShort, match=f"model.bin has 3 of {size} bytes"):
            source.open(record, MemorySink(), "run", resumed=False)


def test_where_there_is_no_room_to_compress_it_is_tried_later(
    source: ArtifactSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "artifacts" / "e" / "model.bin").write_bytes(b"abc")
    record = Artifact(1, "e", compress="gzip")

    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("tailrace_agent.delivery.artifact_source.compressed", full)
        with pytest.raises(Unavailable, match=r"model.bin cannot be compressed: No space") as caught:
            source.open(record, MemorySink(), "run", resumed=False)
        assert caught.value.here
    packed = source.open(record, MemorySink(), "run", resumed=False)
    assert packed is not None
    assert packed.name == "model.bin.gz"
    source.forget_compressed(record)
    assert not packed.exists()
    assert (tmp_path / "artifacts" / "e" / "model.bin").exists()
    assert source.open(record, MemorySink(), "run", resumed=False) == packed
    source.discard(record)
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_a_table_of_a_run_that_was_resumed_begins_with_the_rows_that_it_has(
    source: ArtifactSource, tmp_path: Path
) -> None:
    class Earlier(MemorySink):
        away = True

        def fetch_artifact(self, run_id: str, artifact_file: str, directory: Path) -> Path | None:
            assert (run_id, artifact_file) == ("run", "t/eval.json")
            (directory / "half").write_text("{")
            if self.away:
                raise Unavailable("away")
            (directory / "eval.json").write_text(table(1))
            return directory / "eval.json"

    (tmp_path / "artifacts" / "e" / "eval.json").write_text(table(2))
    sink, record = Earlier(), Artifact(1, "e", "t", append=True)
    with pytest.raises(Unavailable):
        source.open(record, sink, "run", resumed=True)
    sink.away = False
    for _ in range(2):  # the same part, whose upload has to be repeated
        whole = source.open(record, sink, "run", resumed=True)
        assert whole is not None
        assert (whole.name, rows_of(whole.read_bytes())) == ("eval.json", [1, 2])
