"""What neptune's exporter has written: Parquet files, one row for each value, and the files beside them.

`DIR/data/<project>/<run>_part_0.parquet` and `DIR/files/…`, as `neptune-exporter export` lays them out. Configs become
params, float series metrics, series of texts and of histograms artifacts.

neptune's steps have six decimals, and MLflow's are whole numbers. A series with such steps is numbered, and a second
metric, `<name>.step`, has the step that each point had.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from tailrace_agent.errors import NotFound, TailraceError
from tailrace_agent.ipc.records import Point
from tailrace_agent.reading.foreign.foreign_run import ForeignRun, origin_of, place_of

__all__ = ["neptune_runs"]

_ROWS: Final = 10_000
_CONFIGS: Final = frozenset(("float", "int", "string", "bool", "datetime", "string_set"))
_COLUMNS: Final = ("run_id", "project_id", "attribute_path", "attribute_type", "step", "timestamp", "float_value")
_SYSTEM: Final = "sys/"
_GOES_ON: Final = frozenset(("active", "running"))


def neptune_runs(directory: Path) -> Iterator[ForeignRun | TailraceError]:
    """All runs of an export; an error in the place of one whose files are none of the exporter's.

    Args:
        directory: Where `data` and `files` are, or `data` itself.

    Raises:
        NotFound: There are no such files.
    """
    data = directory / "data" if (directory / "data").is_dir() else directory
    files = next((each for each in (directory / "files", data.parent / "files") if each.is_dir()), data)
    by_run: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(data.rglob("*_part_*.parquet")):
        name, _, number = path.stem.rpartition("_part_")
        if number.isdigit():
            by_run.setdefault((path.parent, name), []).append(path)
    if not by_run:
        raise NotFound(f"there are no files of neptune's exporter (…_part_0.parquet) in {data}")
    for parts in by_run.values():
        # By number: part 10 comes behind part 9.
        parts.sort(key=lambda path: int(path.stem.rpartition("_part_")[2]))
        try:
            yield _NeptuneRun(parts, files).read()
        except TailraceError as error:
            yield error


class _NeptuneRun:
    """The parts of one run."""

    def __init__(self, parts: list[Path], files: Path) -> None:
        self._parts, self._files = parts, files
        self._facts: dict[str, Any] = {}
        self._params: dict[str, str] = {}
        self._found: list[tuple[Path, str | None]] = []
        self._texts: dict[str, list[tuple[Any, Any, Any]]] = {}
        self._histograms: dict[str, list[dict[str, Any]]] = {}
        self._odd_steps: set[str] = set()
        self._project = self._id = ""
        self._first: int | None = None
        self._last = self._missing = 0

    def read(self) -> ForeignRun:
        """What there is; the points are read when they are needed."""
        for row in self._rows():
            try:
                self._take(row)
            except (TypeError, ValueError, AttributeError, ArithmeticError) as error:  # other types than the exporter's
                raise TailraceError(f"{self._parts[0]} is no file of neptune's exporter: {error}") from None
        facts = self._facts
        began = _moment(facts.get("creation_time")) or self._first or 0
        ended = _moment(facts.get("modification_time")) or self._last or began
        state = str(facts.get("state") or "").lower()
        described = facts.get("description")
        tags = {"neptune.id": str(facts.get("id") or self._id), "neptune.project": self._project}
        tags |= dict.fromkeys([*(facts.get("tags") or ()), *(facts.get("group_tags") or ())], "true")
        return ForeignRun(
            origin=origin_of("neptune", self._project, self._id),
            name=str(facts.get("name") or facts.get("custom_run_id") or self._id),
            experiment=self._project or "neptune",
            start_time=began,
            end_time=None if state in _GOES_ON else ended,
            status="FAILED" if facts.get("failed") else "FINISHED",
            state=" ".join(f"{path.name}:{path.stat().st_size}" for path in self._parts),
            points=self._points,
            params=self._params,
            tags=tags | ({"mlflow.note.content": str(described)} if described else {}),
            files=self._found,
            texts=dict(self._documents()),
            user=str(facts.get("owner") or "unknown"),
            left_out={"missing files": self._missing} if self._missing else {},
        )

    def _rows(self) -> Iterator[dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self._parts:
            try:
                with pq.ParquetFile(path) as file:
                    absent = set(_COLUMNS) - set(file.schema_arrow.names)
                    if absent:
                        raise TailraceError(f"{path} is no file of neptune's exporter: it has no {min(absent)}")
                    for batch in file.iter_batches(_ROWS):
                        yield from batch.to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise TailraceError(f"{path} cannot be read: {error}") from None

    def _points(self) -> Iterator[Point]:
        counts: dict[str, int] = {}
        for row in self._rows():
            value = row["float_value"]
            if row["attribute_type"] != "float_series" or value is None:
                continue
            key, at, step = row["attribute_path"], _moment(row["timestamp"]), row["step"]
            if key in self._odd_steps or step is None:
                number = counts[key] = counts.get(key, -1) + 1
                if step is not None:
                    yield Point(f"{key}.step", float(step), at, number)
                step = number
            yield Point(key, float(value), at, int(step))

    def _take(self, row: dict[str, Any]) -> None:
        self._id, self._project = str(row["run_id"]), str(row["project_id"])
        key, kind, step = row["attribute_path"], row["attribute_type"], row["step"]
        if (at := _moment(row["timestamp"])) > 0:
            self._first, self._last = min(self._first or at, at), max(self._last, at)
        if kind in _CONFIGS:
            value = row.get(f"{kind}_value")
            if key.startswith(_SYSTEM):
                self._facts[key.removeprefix(_SYSTEM)] = value
            elif value is not None:
                self._params[key] = ",".join(map(str, value)) if kind == "string_set" else str(value)
        elif kind == "float_series":
            if step is not None and step != int(step):
                self._odd_steps.add(key)
        elif kind == "string_series":
            self._texts.setdefault(key, []).append((step, row["timestamp"], row.get("string_value")))
        elif kind == "histogram_series":
            self._histograms.setdefault(key, []).append({"step": step, "histogram": row.get("histogram_value")})
        elif (place := (row.get("file_value") or {}).get("path")) is not None:
            folder = place_of(key)
            self._take_file(folder if step is None else f"{folder}/step_{step.normalize():f}", place)

    def _take_file(self, folder: str, place: str) -> None:
        path = (self._files / place).resolve()
        if not path.is_relative_to(self._files.resolve()) or not path.exists():
            self._missing += 1
            return
        for file in sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]:
            below = file.parent.relative_to(path).as_posix() if path.is_dir() else "."
            self._found.append((file, folder if below == "." else f"{folder}/{below}"))

    def _documents(self) -> Iterator[tuple[str, bytes]]:
        for key, rows in self._texts.items():
            text = io.StringIO()
            csv.writer(text).writerows([("step", "timestamp", "value"), *rows])
            yield f"series/{place_of(key)}.csv", text.getvalue().encode()
        for key, histograms in self._histograms.items():
            yield f"histograms/{place_of(key)}.json", json.dumps(histograms, default=str).encode()


def _moment(value: Any) -> int:
    """Milliseconds since the epoch; 0 where nothing is known."""
    if not isinstance(value, datetime):
        return 0
    return int((value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp() * 1000)
