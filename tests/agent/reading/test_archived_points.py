"""The points of an archived run, which may come from anybody: whole, or refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from helpers.archives import DESCRIBED, METRICS_FILE, consumed, files, packed, parquet
from tailrace_agent.errors import ArchiveError
from tailrace_agent.reading.archive import ArchivedRun, ArchiveReader
from tailrace_agent.reading.archived_points import check_points_apart


def test_points_count_for_their_number_and_not_for_what_they_take(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", files({**DESCRIBED, "points": 10**9}))
    with ArchiveReader(path) as archive, pytest.raises(ArchiveError, match="holds 1,000,000,000 points: too much"):
        archive.runs()
    honest = packed(tmp_path / "b.zip", files({**DESCRIBED, "points": 2}))
    with pytest.raises(ArchiveError, match="it holds 3 points, not 2"):
        consumed(honest, tmp_path / "into")


def test_metrics_of_which_the_reader_of_parquet_files_dies_are_refused_as_others_that_are_wrong(tmp_path: Path) -> None:
    run = ArchivedRun(**DESCRIBED)
    path = tmp_path / "metrics.parquet"
    path.write_bytes(METRICS_FILE)
    check_points_apart(path, run)
    with pytest.raises(ArchiveError, match="it holds 3 points, not 4"):
        check_points_apart(path, ArchivedRun(**{**DESCRIBED, "points": 4}))
    deadly = bytearray(METRICS_FILE)
    deadly[430] ^= 0x40  # a histogram of levels that does not fit: std::terminate in pyarrow 25
    path.write_bytes(deadly)
    with pytest.raises(ArchiveError, match=r"metrics\.parquet is damaged, or not what it should be"):
        check_points_apart(path, run)


@pytest.mark.parametrize(
    "metrics",
    [
        b"",
        b"PAR1" * 10,
        parquet(value=["a", "b", "c"]),
        parquet(value=[[1.0]] * 3),
        parquet(step=[None, 1, 2]),
        parquet(key=[b"\xff"] * 3),
        parquet(timestamp=["x"] * 3),
    ],
)
def test_metrics_that_are_none_are_refused(tmp_path: Path, metrics: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"metrics\.parquet is damaged"):
        consumed(packed(tmp_path / "a.zip", files(metrics=metrics)), tmp_path / "into")


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (parquet(key=["k" * 10_000] * 3), "the name of a metric has 10,000 bytes"),
        (parquet(key=pa.array(["k" * 10_000] * 3).dictionary_encode()), "the name of a metric has 10,000 bytes"),
        (parquet(key=pa.array([b"k" * 10_000] * 3, pa.binary(10_000))), "its columns are not those of points"),
        (parquet(value=["1" + "0" * 10_000] * 3), "its columns are not those of points"),
        (parquet(value=[{"a": 1.0, "b": "k"}] * 3), "its columns are not those of points"),
        (parquet(encoded="DELTA_BYTE_ARRAY"), "its names are packed in a way that archives of runs are not"),
    ],
)
def test_what_would_be_written_out_for_every_point_is_refused_before_it_is(
    tmp_path: Path, metrics: bytes, said: str
) -> None:
    with pytest.raises(ArchiveError, match=said):
        consumed(packed(tmp_path / "a.zip", files(metrics=metrics)), tmp_path / "into")


def test_a_name_that_is_as_long_as_mlflow_takes_it_is_read(tmp_path: Path) -> None:
    metrics = parquet(key=["\N{FIRE}" * 250] * 3)
    assert consumed(packed(tmp_path / "a.zip", files(metrics=metrics)), tmp_path / "into") == ["first"]
