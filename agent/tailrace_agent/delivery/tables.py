"""Tables that grow call by call: parts in MLflow's JSON (pandas' `split` orientation) or Parquet, merged into one file.

Cells of JSON are never decoded: their bytes go from the parts into the whole as they are. Columns are united in the
order in which they first appear, and a part without a column has `null` there, as pandas' `concat` does.

Thread safety: stateless. `merge_tables` replaces its output in one step; two merges into one file need a lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace_agent.decoding import json_decoder
from tailrace_agent.files.ownership import write_own

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

__all__ = ["merge_tables"]

_NULL: Final = msgspec.Raw(b"null")


class _Table(msgspec.Struct):
    columns: list[Any]
    data: list[msgspec.Raw]


_table_decoder = json_decoder(_Table)
_row_decoder = json_decoder(list[msgspec.Raw])


def merge_tables(parts: Sequence[Path], out: Path) -> int:
    """Writes the rows of all parts, in order, into one table.

    Args:
        parts: Tables as `log_table` writes them, MLflow's or ours. The whole so far may be the first of them, and
            may be `out` itself.
        out: Replaced in one step, mode 0600. Its name says what they all are: `.parquet`, or else JSON.

    Returns:
        How many rows it has now.

    Raises:
        ValueError: A part is no such table; the message names it, and `out` is as before.
        OSError: A part cannot be read, or `out` not be written.

    Example:
        >>> merge_tables([Path("whole.json"), Path("part.json")], Path("whole.json"))
        3
    """
    if out.suffix == ".parquet":
        return _merge_parquet(parts, out)
    tables = [_read(part) for part in parts]
    columns = _united(tables)
    rows = [row for table in tables for row in _fitted(table, columns)]
    _replace(out, msgspec.json.encode(_Table(columns, rows)))
    return len(rows)


def _merge_parquet(parts: Sequence[Path], out: Path) -> int:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for part in parts:
        try:
            tables.append(pq.read_table(part))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{part} is no table: {error}") from error
    try:
        # As pandas' `concat` has it: a column that a part has not is empty there, and integers become floats.
        whole = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"the rows of {out.name} do not fit to those before: {error}") from error
    body = io.BytesIO()
    pq.write_table(whole, body)
    _replace(out, body.getvalue())
    return int(whole.num_rows)


def _read(part: Path) -> _Table:
    try:
        return _table_decoder.decode(part.read_bytes())
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{part} is no table: {error}") from error


def _united(tables: list[_Table]) -> list[Any]:
    seen: dict[Hashable, Any] = {}
    for table in tables:
        for column, identity in zip(table.columns, _identities(table.columns), strict=True):
            seen.setdefault(identity, column)
    return list(seen.values())


def _identities(columns: list[Any]) -> list[Hashable]:
    """What distinguishes columns: their JSON (1 and "1" differ), and a count where a name comes twice."""
    names = [msgspec.json.encode(column) for column in columns]
    return [(name, names[:position].count(name)) for position, name in enumerate(names)]


def _fitted(table: _Table, columns: list[Any]) -> list[msgspec.Raw]:
    """The rows of a table, laid out for these columns."""
    if table.columns == columns:
        return table.data
    place = {identity: position for position, identity in enumerate(_identities(table.columns))}
    order = [place.get(identity) for identity in _identities(columns)]
    return [_laid_out(row, order) for row in table.data]


def _laid_out(row: msgspec.Raw, order: list[int | None]) -> msgspec.Raw:
    cells = _row_decoder.decode(row)
    laid = [_NULL if position is None or position >= len(cells) else cells[position] for position in order]
    return msgspec.Raw(msgspec.json.encode(laid))


def _replace(out: Path, body: bytes) -> None:
    # The whole so far may be one of the parts: killed within this, it is the one of before.
    partial = out.with_name(f".{out.name}.partial")
    try:
        write_own(partial, body)
        partial.replace(out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
