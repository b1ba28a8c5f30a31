"""Compressed artifacts: the bytes come back, and neither a kill nor a full disk leaves anything behind."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from helpers.delivery_rigs import UploadRig, fails
from helpers.sdk_tools import Store, tracking
from tailrace import CallError
from tailrace_agent.delivery import compress
from tailrace_agent.delivery.compress import compressed, forget
from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import Codec

CODECS: tuple[Codec, ...] = ("gzip", "zstd")


def unpacked(path: Path) -> bytes:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
        return bytes(stream.read())


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def staged(root: Path, files: dict[str, bytes]) -> Path:
    for name, body in files.items():
        path = root / "entry" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return root / "entry"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[UploadRig]:
    rig = UploadRig(tmp_path)
    yield rig
    rig.spool.close()


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_comes_back_and_is_smaller_and_always_the_same(tmp_path: Path, codec: Codec) -> None:
    body = b"weights" * 500_000
    entry = staged(tmp_path, {"model.bin": body})
    packed = compressed(entry / "model.bin", codec)
    assert packed.name == "model.bin" + compress.SUFFIXES[codec]
    assert unpacked(packed) == body
    assert len(packed.read_bytes()) < len(body) / 50
    assert packed.stat().st_mode & 0o777 == 0o600
    assert packed.parent.stat().st_mode & 0o777 == 0o700
    once = packed.read_bytes()
    forget(entry)
    assert names(tmp_path) == ["entry"]
    os.utime(entry / "model.bin", (0, 0))
    assert compressed(entry / "model.bin", codec).read_bytes() == once


@pytest.mark.parametrize("codec", CODECS)
def test_a_directory_is_compressed_file_by_file(tmp_path: Path, codec: Codec) -> None:
    files = {"tree/a.txt": b"a", "tree/a.txt.gz": b"no gzip", "tree/below/empty": b""}
    packed = compressed(staged(tmp_path, files) / "tree", codec)
    suffix = compress.SUFFIXES[codec]
    assert packed.name == "tree"
    found = {path.relative_to(packed.parent).as_posix(): unpacked(path) for path in packed.rglob("*") if path.is_file()}
    assert found == {name + suffix: body for name, body in files.items()}


def test_what_cannot_have_the_new_name_stays_as_it_is(tmp_path: Path) -> None:
    long = "n" * 254
    tree = staged(tmp_path, {"tree/log": b"file", "tree/log.gz/part": b"part", f"tree/{long}": b"long"}) / "tree"
    packed = compressed(tree, "gzip")
    assert (packed / "log").read_bytes() == b"file"
    assert unpacked(packed / "log.gz" / "part.gz") == b"part"
    assert (packed / long).read_bytes() == b"long"


def test_what_a_kill_left_is_thrown_away_and_what_is_whole_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = staged(tmp_path, {"model.bin": b"whole"})
    half = tmp_path / "entry.compressing" / "model.bin.gz"
    half.parent.mkdir()
    half.write_bytes(b"half")
    packed = compressed(entry / "model.bin", "gzip")
    assert unpacked(packed) == b"whole"
    monkeypatch.setattr(compress, "_compress", lambda *_: pytest.fail("made again"))
    assert compressed(entry / "model.bin", "gzip") == packed


def test_a_full_disk_is_waited_for_and_leaves_nothing_behind(rig: UploadRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.start()
    entry = rig.stage({"model.bin": "weights"}, compress="zstd")
    copy, full = shutil.copyfileobj, [True]

    def copyfileobj(source: Any, target: Any, length: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, target, length)

    monkeypatch.setattr(shutil, "copyfileobj", copyfileobj)
    rig.run(20.0)
    assert names(rig.staging) == [entry.name]
    assert "model.bin cannot be compressed: No space left on device" in rig.notices()[0]
    full[0] = False
    rig.run()
    assert list(rig.of().artifacts) == ["model.bin.zst"]
    assert names(rig.staging) == []


def test_an_upload_that_is_tried_again_is_not_compressed_again(rig: UploadRig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    work = compress._compress
    monkeypatch.setattr(compress, "_compress", lambda *args: (made.append(args), work(*args)))
    rig.start()
    rig.stage({"model.bin": "weights"}, compress="gzip")
    sent = fails(rig, Unavailable("away"), "log_artifact", times=2)
    rig.run(60.0)
    assert (len(sent), len(made)) == (3, 1)
    assert gzip.decompress(rig.of().artifacts["model.bin.gz"]) == b"weights"
    assert rig.counts().delivered == 1


def test_of_a_refused_one_only_the_original_stays(rig: UploadRig) -> None:
    rig.start()
    entry = rig.stage({"model.bin": "weights"}, compress="gzip")
    fails(rig, Refused("no"), "log_artifact")
    rig.run()
    assert rig.counts().dead == 1
    assert names(rig.staging) == [entry.name]


def test_compressed_artifacts_reach_mlflow_as_they_were_at_the_call(
    sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, tree = tmp_path / "model.bin", tmp_path / "tree"
    file.write_bytes(b"weights" * 1000)
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "log.txt").write_text("text")
    unknown: Any = "lzma"
    with tracking(sqlite_uri) as sdk, sdk.start_run() as run:
        sdk.log_artifact(file, "models", compress="zstd")
        sdk.log_artifact(tree, compress="gzip")
        sdk.log_artifacts(tree, "contents", compress="gzip")
        sdk.log_artifact(file, "plain", compress=unknown)
        file.write_bytes(b"changed")
        shutil.rmtree(tree)
        ledger = sdk.flush().of("artifact")
    store = Store(sqlite_uri, run)
    assert store.artifacts() == [
        "contents/below/log.txt.gz",
        "models/model.bin.zst",
        "plain/model.bin",
        "tree/below/log.txt.gz",
    ]
    fetched = Path(store.client.download_artifacts(run.run_id, "models/model.bin.zst"))
    assert unpacked(fetched) == b"weights" * 1000
    assert ledger.delivered == 4
    assert ["'lzma' is none of ('gzip', 'zstd')" in record.getMessage() for record in caplog.records] == [True]
    assert list((tmp_path / "tailrace" / "sessions").glob("*/artifacts/*")) == []


def test_an_unknown_codec_raises_under_strict(sqlite_uri: str, tmp_path: Path) -> None:
    unknown: Any = 9
    (tmp_path / "a.txt").write_text("a")
    with (
        tracking(sqlite_uri, strict=True) as sdk,
        sdk.start_run(),
    ):
        for codec in (unknown, ["gzip"]):
            with pytest.raises(CallError, match=r"compress=.* is none"):
                sdk.log_artifact(tmp_path / "a.txt", compress=codec)
