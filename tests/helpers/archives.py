"""Archives made by hand, good ones and forged ones."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tailrace_agent.errors import ArchiveError
from tailrace_agent.reading.archive import ArchiveReader
from tailrace_agent.reading.archived_points import check_points, points_of

RUN_ID = "a" * 32
DATA = {"name": "zeros", "digest": "d", "source_type": "code", "source": "{}", "schema": None, "profile": None}
DESCRIBED: dict[str, Any] = {
    "run_id": RUN_ID,
    "origin": RUN_ID,
    "run_name": "first",
    "experiment": "made",
    "user": "ada",
    "status": "FINISHED",
    "start_time": 1000,
    "end_time": 2000,
    "params": {"lr": "0.1"},
    "tags": {"mlflow.user": "ada"},
    "inputs": [{"dataset": DATA, "tags": {"context": "training"}}],
    "points": 3,
    "artifacts": 1,
}
Files = dict[str, bytes]


def parquet(encoded: str | None = None, **columns: Any) -> bytes:
    table = {"key": ["loss"] * 3, "step": [0, 1, 2], "timestamp": pa.array([1, 2, 3], pa.timestamp("ms", "UTC"))}
    into = io.BytesIO()
    how = {} if encoded is None else {"use_dictionary": False, "column_encoding": {"key": encoded}}
    pq.write_table(pa.table({**table, "value": [0.5, 0.4, 0.3], **columns}), into, **how)
    return into.getvalue()


METRICS_FILE = parquet()


def files(described: Any = DESCRIBED, metrics: bytes = METRICS_FILE, **more: bytes) -> Files:
    """What is in an archive, its manifest aside."""
    head = f"runs/{RUN_ID}"
    text = described if isinstance(described, bytes) else json.dumps(described).encode()
    return {f"{head}/run.json": text, f"{head}/metrics.parquet": metrics, f"{head}/artifacts/a/b.txt": b"hello", **more}


def manifest(entries: Files) -> dict[str, Any]:
    """The one that fits."""
    sums = {name: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for name, body in entries.items()}
    return {"format": "tailrace-runs", "version": 1, "created": "", "store": "", "runs": [RUN_ID], "files": sums}


def packed(path: Path, entries: Files, described: Any = None, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as into:
        for name, body in entries.items():
            into.writestr(name, body)
        into.writestr("manifest.json", json.dumps(manifest(entries) if described is None else described))
    return path


def consumed(path: Path, into: Path, max_bytes: int | None = None) -> list[str]:
    """All that an import reads before and while something is created; the names of the runs."""
    found = []
    with ArchiveReader(path, max_bytes) as archive:
        for run in archive.runs():
            directory = into / run.run_id
            directory.mkdir(parents=True)
            metrics, _ = archive.unpack(run.run_id, directory)
            check_points(metrics, run)
            assert sum(len(points) for points in points_of(metrics, 1000, run)) == run.points
            found.append(run.run_name)
    return found


def harmless(path: Path, into: Path) -> str | None:
    """What is said of it, if it is refused; whatever else is raised fails the test."""
    try:
        consumed(path, into)
    except ArchiveError as error:
        return str(error)
    return None
