"""Archives: what is in them, and which are refused."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.commands import tailrace
from helpers.stored_runs import NOT_FINITE, POINTS, Archived, all_runs
from tailrace_agent.errors import ArchiveError
from tailrace_agent.reading.archive import ArchivedRun, ArchiveReader, ArchiveWriter


def test_pandas_reads_the_metrics_of_an_archive(archived: Archived, tmp_path: Path) -> None:
    import pandas as pd

    with ArchiveReader(archived.archive) as archive:
        metrics, artifacts = archive.unpack(archived.parent, tmp_path)
    frame = pd.read_parquet(metrics)
    assert list(frame.columns) == ["key", "step", "timestamp", "value"]
    assert len(frame) == len(POINTS) + len(NOT_FINITE)
    assert (artifacts / "notes" / "hello wörld.txt").read_text() == "hello"


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


def test_a_damaged_archive_creates_nothing(archived: Archived, sqlite_uri: str, tmp_path: Path) -> None:
    def flipped(name: str, body: bytes) -> bytes:
        return b"hellO" if name.endswith("wörld.txt") else body

    def shortened(name: str, body: bytes) -> bytes | None:
        return None if name.endswith(f"{archived.parent}/metrics.parquet") else body

    assert "hello wörld.txt is damaged" in refused(rewritten(archived.archive, tmp_path / "a.zip", flipped), sqlite_uri)
    assert "metrics.parquet is missing" in refused(
        rewritten(archived.archive, tmp_path / "b.zip", shortened), sqlite_uri
    )
    cut = tmp_path / "c.zip"
    cut.write_bytes(archived.archive.read_bytes()[:-3000])
    assert "is no archive of runs" in refused(cut, sqlite_uri)


def test_an_archive_that_would_write_elsewhere_is_refused(archived: Archived, sqlite_uri: str, tmp_path: Path) -> None:
    for name in ("../../evil", "/evil", "runs/x/../../../evil", "runs//x", "runs/x/artifacts/.."):

        def planted(entry: str, body: bytes, name: str = name) -> bytes:
            if entry != "manifest.json":
                return body
            manifest = json.loads(body)
            manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
            return json.dumps(manifest).encode()

        assert "not safe" in refused(rewritten(archived.archive, tmp_path / "slip.zip", planted), sqlite_uri)


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


def _run(run_id: str) -> ArchivedRun:
    return ArchivedRun(
        run_id=run_id, origin=run_id, run_name="r", experiment="e", user="ada", status="FINISHED", start_time=0,
        end_time=None, params={}, tags={},
    )  # fmt: skip


def test_two_exports_to_one_path_do_not_share_a_file(tmp_path: Path) -> None:
    (tmp_path / "none.parquet").touch()
    target, ids = tmp_path / "x.zip", ("a" * 32, "b" * 32)
    with ArchiveWriter(target, "s", "now") as first:
        first.add_run(_run(ids[0]), tmp_path / "none.parquet")
        with ArchiveWriter(target, "s", "now") as second:
            second.add_run(_run(ids[1]), tmp_path / "none.parquet")
        with ArchiveReader(target) as archive:
            assert [run.run_id for run in archive.runs()] == [ids[1]]
    with ArchiveReader(target) as archive:
        assert [run.run_id for run in archive.runs()] == [ids[0]], "the last one that is done"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.parquet", "x.zip"]


def test_an_export_follows_no_link_that_somebody_else_has_put_beside_it(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / ".x.zip.partial").symlink_to(tmp_path / "theirs")
    with ArchiveWriter(tmp_path / "x.zip", "s", "now"):
        pass
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / ".x.zip.partial").is_symlink(), "it is not ours"
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("x.zip", "plain")]
    assert modes[0] == modes[1], "others may read it where they may read the user's other files"


def test_a_full_disk_at_an_exports_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), ArchiveWriter(tmp_path / "x.zip", "s", "now"):
        monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    assert list(tmp_path.iterdir()) == []
