"""Runs out of MLflow into an archive: all of their points, params, tags, inputs and artifacts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.decoding import convert
from tailrace_agent.reading.archive import ArchivedInput, ArchivedRun, ArchiveWriter

if TYPE_CHECKING:
    from tailrace_agent.reading.reader import Reader

__all__ = ["SOURCE_TAG", "children_of", "export_runs"]

SOURCE_TAG: Final = "tailrace.source.run_id"
"""The tag by which an imported run is known: the id of the run that was logged."""
_TIMEOUT: Final = 120.0
_HELD: Final = 200_000  # points in a row group, which is what a reader has in memory at once


def export_runs(
    reader: Reader, runs: Sequence[Any], path: Path, on_progress: Callable[[str, int, int, str], None]
) -> None:
    """Writes runs into an archive.

    Args:
        reader: Where they are.
        runs: MLflow's `Run` entities.
        path: The archive; replaced if it is there, and left alone if something goes wrong.
        on_progress: Called with the run's name, how many things are done, how many there are (0: not known), and what
            is being done.

    Raises:
        SinkError: The store is away.
        OSError: The archive cannot be written.
    """
    names = reader.experiments()
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with ArchiveWriter(path, reader.name, created) as archive, tempfile.TemporaryDirectory() as scratch:
        for run in runs:
            _export(reader, run, archive, Path(scratch), names, on_progress)


def children_of(reader: Reader, runs: Sequence[Any]) -> list[Any]:
    """All runs nested under these, at any depth."""
    found: dict[str, Any] = {run.info.run_id: run for run in runs}
    todo = list(runs)
    while todo:
        parent = todo.pop().info.run_id
        for child in reader.search(None, f"tags.`mlflow.parentRunId` = '{parent}'"):
            if child.info.run_id not in found:
                found[child.info.run_id] = child
                todo.append(child)
    return list(found.values())[len(runs) :]


def _export(
    reader: Reader,
    run: Any,
    archive: ArchiveWriter,
    scratch: Path,
    names: dict[str, str],
    on_progress: Callable[[str, int, int, str], None],
) -> None:
    run_id, name = run.info.run_id, run.info.run_name or run.info.run_id[:8]
    metrics = scratch / "metrics.parquet"
    points = _write_metrics(reader, run, metrics, lambda done: on_progress(name, done, 0, "metrics"))
    files = list(_artifacts(reader, run))  # their number is in `run.json`, which is written before them
    data = run.data
    archived = ArchivedRun(
        run_id=run_id,
        # Of a run that was imported itself, the first id stays: so it is known again in the store where it was logged.
        origin=data.tags.get(SOURCE_TAG, run_id),
        run_name=run.info.run_name or "",
        experiment=names.get(str(run.info.experiment_id), ""),
        user=data.tags.get("mlflow.user", run.info.user_id or "unknown"),
        status=run.info.status,
        start_time=run.info.start_time,
        end_time=run.info.end_time,
        params=dict(data.params),
        tags=dict(data.tags),
        inputs=[
            convert(each.to_dictionary(), ArchivedInput) for each in getattr(run.inputs, "dataset_inputs", None) or []
        ],
        points=points,
        artifacts=len(files),
    )
    archive.add_run(archived, metrics)
    # One run, and below one file, at a time: the scratch directory need not hold them all.
    metrics.unlink()
    for done, artifact in enumerate(files):
        on_progress(name, done, len(files), "artifacts")
        with tempfile.TemporaryDirectory(dir=scratch) as into:
            archive.add_artifact(run_id, artifact, _download(reader, run, artifact, into))


def _write_metrics(reader: Reader, run: Any, path: Path, on_progress: Callable[[int], None]) -> int:
    """Every point, in row groups that fit into memory; how many there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            # A name once for a row group, not once for each point.
            ("key", pa.dictionary(pa.int32(), pa.string())),
            ("step", pa.int64()),
            ("timestamp", pa.timestamp("ms", "UTC")),
            ("value", pa.float64()),
        ]
    )
    points = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for key in sorted(run.data.metrics):  # metric by metric: one index of a dictionary compresses to nothing
            for piece in reader.history(run.info.run_id, key):
                keys = pa.DictionaryArray.from_arrays(pa.array([0] * len(piece.step), pa.int32()), [key])
                times = pa.array(piece.timestamp).cast(pa.timestamp("ms", "UTC"))
                writer.write_table(pa.table([keys, piece.step, times, piece.value], schema=schema), _HELD)
                points += len(piece.step)
                on_progress(points)
    return points


def _artifacts(reader: Reader, run: Any, path: str | None = None) -> Iterator[str]:
    """Paths of all files."""
    from tailrace_agent.mlflow.proxied_files import list_directory

    with reader.translated_errors(about_run=True):
        entries = list_directory(_repository(reader, run), path)
    for entry in entries:
        if entry.is_dir:
            yield from _artifacts(reader, run, entry.path)
        else:
            yield entry.path


def _download(reader: Reader, run: Any, artifact: str, into: str) -> Path:
    with reader.translated_errors(about_run=True):
        return Path(_repository(reader, run).download_artifacts(artifact, dst_path=into))


def _repository(reader: Reader, run: Any) -> Any:
    from tailrace_agent.mlflow.stores import open_repository

    return open_repository(run.info.artifact_uri, reader.uri, _TIMEOUT)
