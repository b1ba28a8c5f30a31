"""The points of an archived run: a Parquet file, which may come from anybody."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from tailrace_agent.decoding import decode_json
from tailrace_agent.errors import ArchiveError
from tailrace_agent.ipc.records import Point
from tailrace_agent.reading.archive import ArchivedRun
from tailrace_agent.runtime import interpreter

__all__ = ["check_points", "check_points_apart", "points_of"]

_COLUMNS: Final = {"key": "BYTE_ARRAY", "value": "DOUBLE", "timestamp": "INT64", "step": "INT64"}
"""What a point has, and how Parquet keeps it."""
_KEY_AT_MOST: Final = 1000
"""Bytes of a metric's name, of which MLflow takes 250 characters."""
_ENCODINGS: Final = {"PLAIN", "PLAIN_DICTIONARY", "RLE", "RLE_DICTIONARY", "BIT_PACKED"}
"""Of names: those whose size bounds what they become."""
_CHECKED_AT_ONCE: Final = 50_000
_GROUP_AT_MOST: Final = 256 << 20
"""Bytes of a row group. They are written with 200,000 points each, which take 8 MB."""
_CHECKED_WITHIN: Final = 600.0
_REFUSED: Final = 3
"""Exit status of the process that checks, where the file is refused for the reason that it writes out."""


def check_points(path: Path, run: ArchivedRun) -> None:
    """Reads a run's Parquet file to its end, before anything of the run is created.

    Raises:
        ArchiveError: It is none, or holds other points than the manifest has of the run.
    """
    # Counted, not believed: the metadata's number is the file's own claim.
    found = sum(len(keys) for keys, *_ in _columns(path, _CHECKED_AT_ONCE, run))
    if found != run.points:
        raise ArchiveError(f"{_name(run)} is damaged: it holds {found:,} points, not {run.points:,}")


def check_points_apart(path: Path, run: ArchivedRun) -> None:
    """The same in a process of its own.

    Parquet's C++ ends its process where the metadata of a file contradict one another, and no exception comes of it.

    Raises:
        ArchiveError: As `check_points`; or the process has died of the file, or not come to an end.
    """
    command = interpreter.module_command("tailrace_agent.reading.archived_points", str(path))
    given, env = msgspec.json.encode(run), interpreter.environment()
    try:
        done = subprocess.run(command, input=given, env=env, capture_output=True, timeout=_CHECKED_WITHIN, check=False)
    except subprocess.TimeoutExpired:
        raise ArchiveError(f"{_name(run)} could not be read within {_CHECKED_WITHIN:.0f} s") from None
    if done.returncode == _REFUSED:
        raise ArchiveError(done.stdout.decode("utf-8", "replace"))
    if done.returncode:  # a signal, mostly SIGABRT or SIGSEGV
        raise ArchiveError(f"{_name(run)} is damaged, or not what it should be: no Parquet reader survives it")


def points_of(path: Path, at_once: int, run: ArchivedRun) -> Iterator[list[Point]]:
    """The points of a Parquet file as `records.Point` has them: key, value, milliseconds, step."""
    for columns in _columns(path, at_once, run):
        yield list(map(Point, *(column.to_pylist() for column in columns)))


def _columns(path: Path, at_once: int, run: ArchivedRun) -> Iterator[tuple[Any, ...]]:
    """Pieces of the four columns, checked.

    Names are read as a dictionary and its indices. A long name that is repeated takes next to nothing in the file, and
    is written out for each point only when it is known to be short.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = (pa.string(), pa.float64(), pa.timestamp("ms", "UTC"), pa.int64())
    with _damage_of(run), pq.ParquetFile(path, read_dictionary=["key"]) as file:
        _check_layout(file, run)
        for batch in file.iter_batches(at_once, columns=list(_COLUMNS)):
            _check_keys(batch.column("key"))
            keys, values, times, steps = (
                batch.column(name).cast(kind) for name, kind in zip(_COLUMNS, kinds, strict=True)
            )
            if any(column.null_count for column in (keys, values, times, steps)):
                raise ValueError("a point lacks something")
            # Parquet keeps a text as bytes: what is no UTF-8 is found only so.
            keys.validate(full=True)
            yield keys, values, times.cast(pa.int64()), steps


def _check_layout(file: Any, run: ArchivedRun) -> None:
    """Refuses, by the file's own metadata, what is no table of points or may take any amount of memory.

    Raises:
        ValueError: Why.
    """
    about = file.metadata
    if about.num_rows != run.points:
        raise ValueError(f"it holds {about.num_rows:,} points, not {run.points:,}")
    leaves = [file.schema.column(number) for number in range(about.num_columns)]
    ours = [leaf for leaf in leaves if leaf.path.split(".")[0] in _COLUMNS]
    found = {leaf.path: leaf.physical_type for leaf in ours if leaf.max_repetition_level == 0}
    if len(ours) != len(_COLUMNS) or found != _COLUMNS:
        raise ValueError("its columns are not those of points")
    key = next(number for number, leaf in enumerate(leaves) if leaf.path == "key")
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        if group.total_byte_size > _GROUP_AT_MOST:  # as it declares, and its reader allocates
            raise ValueError("it holds too much at once")
        if not _ENCODINGS.issuperset(group.column(key).encodings):
            raise ValueError("its names are packed in a way that archives of runs are not")


def _check_keys(keys: Any) -> None:
    """Refuses names that are too long.

    Raises:
        ValueError: Why.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(keys.type):
        raise ValueError("its names are no text")
    longest = pc.max(pc.binary_length(keys.dictionary)).as_py() or 0
    if longest > _KEY_AT_MOST:
        raise ValueError(f"the name of a metric has {longest:,} bytes")


def _name(run: ArchivedRun) -> str:
    return f"runs/{run.run_id}/metrics.parquet"


@contextlib.contextmanager
def _damage_of(run: ArchivedRun) -> Iterator[None]:
    """What goes wrong with a Parquet file is the archive's fault."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, KeyError, OSError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ArchiveError(
            f"runs/{run.run_id}/metrics.parquet is damaged, or not what it should be: {reason}"
        ) from error


def _main(path: str) -> int:
    with contextlib.suppress(ImportError, OSError, ValueError):  # no core of a process that is expected to die
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        check_points(Path(path), decode_json(sys.stdin.buffer.read(), ArchivedRun))
    except ArchiveError as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "replace"))
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
