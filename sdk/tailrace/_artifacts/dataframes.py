"""Data frames as files: taken as they are at the call, written as Parquet or CSV in the background.

What is taken, and what that costs the caller:

* a pandas frame or Series: a deep copy, at the speed of memory;
* an Arrow table, or anything with Arrow's PyCapsule interface (Polars, DuckDB, cuDF, …): nothing is copied, since
  such data does not change. A table laid over an array that somebody else writes to is no such data: copy it first;
* anything else with the dataframe interchange protocol, columns in a dictionary, rows in a list: a copy as Arrow.

Everything is written through Arrow, which gives up the GIL while it encodes and compresses. Cells of a pandas frame
that are objects of their own (lists, dicts) are not copied: leave them alone after the call.

Thread safety: all functions may be called from any thread; the caller must not change the frame during the call.
"""

from __future__ import annotations

import sys
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from tailrace._artifacts.captured import BadArtifact, Frozen, Part, extension_of, named
from tailrace._values.numbers import name_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Taken", "freeze_dataframe", "take"]

_UNNAMED_INDEX: Final = "__index_level_0__"
"""What Arrow calls the index of a pandas frame that has no name."""


_NO_TABLE: Final = (TypeError, ValueError, NotImplementedError, OverflowError)
"""What Arrow raises for data that it has no table for; its own errors are among these."""


def freeze_dataframe(df: Any, name: str, format: str | None = None) -> Frozen:  # noqa: A002 - the public name
    """A data frame as one file.

    Args:
        df: The frame; see above for what will do.
        name: Where in the run's artifacts; the extension is added where it is missing.
        format: `parquet` or `csv`; by default that of the extension, else Parquet.

    Raises:
        BadArtifact: It is no frame, or the format is none of the two or not that of the extension.

    Example:
        >>> freeze_dataframe(frame, "eval/predictions").parts[0].artifact_file
        'eval/predictions.parquet'
    """
    artifact_file, write = _file_of(named(name), format)
    return Frozen((Part(artifact_file, partial(write, take(df))),), {})


def _file_of(name: str, form: str | None) -> tuple[str, Callable[[Taken, Path], None]]:
    extension = extension_of(name)[1:]
    if form is not None and form not in _WRITERS:
        raise BadArtifact(f"format is {form!r}; it can be {' or '.join(map(repr, _WRITERS))}")
    if form is not None and extension in _WRITERS and extension != form:
        raise BadArtifact(f"{name!r} does not end in .{form}, the format that was asked for")
    chosen = form or (extension if extension in _WRITERS else "parquet")
    return name if extension == chosen else f"{name}.{chosen}", _WRITERS[chosen]


class Taken:
    """A frame as it was at the call.

    Args:
        state: A copy of a pandas frame, or an Arrow table.
    """

    def __init__(self, state: Any) -> None:
        self._state = state

    @cached_property
    def table(self) -> Any:
        """As an Arrow table; an index of pandas that is more than row numbers is among its columns."""
        import pyarrow as pa

        if isinstance(self._state, pa.Table):
            return self._state
        return pa.Table.from_pandas(self._state)

    @property
    def frame(self) -> Any:
        """As a pandas frame."""
        return self._state if _is_of_pandas(self._state, "DataFrame") else self._state.to_pandas()


def take(data: Any, column: str = "value") -> Taken:
    """The state of a frame, a Series, an array with one dimension, a dictionary of columns, a list of rows or values.

    Args:
        data: The frame.
        column: Name of the only column where the data has no names.

    Raises:
        BadArtifact: It is none of these, or Arrow has no type for it.
    """
    if _is_of_pandas(data, "DataFrame"):
        return Taken(data.copy())
    if _is_of_pandas(data, "Series"):
        return Taken(data.to_frame(data.name if data.name is not None else column).copy())
    try:
        return Taken(_table(data, column))
    except _NO_TABLE as error:
        raise BadArtifact(f"{name_of(data)} cannot be made a table: {error}") from error


def _table(data: Any, column: str) -> Any:
    import pyarrow as pa

    if isinstance(data, pa.Table):
        return data
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        return pa.table(data)
    if hasattr(data, "__dataframe__"):
        import pyarrow.interchange

        return _copied(pa.interchange.from_dataframe(data))
    if isinstance(data, dict):
        return pa.table({str(name): _array(values) for name, values in data.items()})
    if isinstance(data, (list, tuple)) and data and all(isinstance(row, dict) for row in data):
        names = dict.fromkeys(name for row in data for name in row)
        return pa.table({str(name): [row.get(name) for row in data] for name in names})
    if isinstance(data, (list, tuple)) or getattr(data, "ndim", None) == 1:
        return pa.table({column: _array(data)})
    raise TypeError("it is no DataFrame of pandas, Polars, Arrow or the like")


def _array(values: Any) -> Any:
    """A column of its own: Arrow would lay it over the memory of a NumPy array."""
    import pyarrow as pa

    return pa.array(values.copy() if hasattr(values, "copy") else values)


def _copied(table: Any) -> Any:
    import pyarrow as pa

    # By way of its bytes: a table of another library may lie over memory that the program goes on changing.
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(buffer.getvalue()).read_all()


def _is_of_pandas(data: object, name: str) -> bool:
    kind = getattr(sys.modules.get("pandas"), name, None)
    return kind is not None and isinstance(data, kind)


def write_parquet(taken: Taken, path: Path) -> None:
    """Writes it as Parquet, compressed with Zstandard; pandas finds its index and types again.

    Raises:
        BadArtifact: Arrow has no type for a column.
    """
    import pyarrow.parquet

    try:
        pyarrow.parquet.write_table(taken.table, path, compression="zstd")
    except _NO_TABLE as error:
        reason = "; ".join(map(str, error.args))
        raise BadArtifact(f"Parquet cannot hold it ({reason}); format='csv' may") from error


def write_csv(taken: Taken, path: Path) -> None:
    """Writes it as CSV; an index of pandas becomes the first columns where it is more than row numbers."""
    import pyarrow.csv

    try:
        table = taken.table
        # pandas puts its index behind the columns; in a CSV file people look for it first.
        index = [
            name for name in (table.schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)
        ]
        table = table.select([*index, *(name for name in table.column_names if name not in index)])
        names = ["index" if name == _UNNAMED_INDEX else name for name in table.column_names]
        pyarrow.csv.write_csv(table.rename_columns(names), path)
    except _NO_TABLE:
        # Cells of several types in one column, lists, names that come up twice: pandas writes them by their `str()`.
        frame = taken.frame
        # Row numbers are left out, as above: Arrow's table does not have them as a column.
        frame.to_csv(path, index=not _is_of_pandas(frame.index, "RangeIndex"))


_WRITERS: Final[dict[str, Callable[[Taken, Path], None]]] = {"parquet": write_parquet, "csv": write_csv}
