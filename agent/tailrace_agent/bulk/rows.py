"""The rows that points are in MLflow's tables, and the statements that store them.

Loading this module does not import MLflow: a test compares the names with those of its tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Final, NamedTuple

from tailrace_agent.bulk.columns import RunColumns

__all__ = [
    "COLUMNS",
    "INSERT",
    "LATEST",
    "METRICS",
    "MYSQL_INSERT",
    "MYSQL_UPSERT",
    "NEWER",
    "TESTED",
    "TESTED_MLFLOW",
    "UPSERT",
    "VERSION",
    "Row",
    "latest_of",
    "rows_of",
]

TESTED: Final = frozenset(("dc11669786a5",))
"""Versions of MLflow's schema (`alembic_version`) with which this was tested: MLflow 3.17's."""
TESTED_MLFLOW: Final = "3.17."
"""How the version of the MLflow begins that makes them."""
VERSION: Final = "SELECT version_num FROM alembic_version"
METRICS: Final = "metrics"
LATEST: Final = "latest_metrics"
COLUMNS: Final = "key, value, timestamp, step, is_nan, run_uuid"
NEWER: Final = (
    "ON CONFLICT (key, run_uuid) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in ("value", "timestamp", "step", "is_nan"))
    + " WHERE (excluded.step, excluded.timestamp, excluded.value)"
    + f" > ({LATEST}.step, {LATEST}.timestamp, {LATEST}.value)"
)
_QMARKS: Final = f"({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
INSERT: Final = f"INSERT INTO {METRICS} {_QMARKS} ON CONFLICT DO NOTHING"
"""SQLite's, of a row of `METRICS`."""
UPSERT: Final = f"INSERT INTO {LATEST} {_QMARKS} {NEWER}"
"""SQLite's, of a row of `LATEST`."""
_MYSQL_VALUES: Final = _QMARKS.replace("key", "`key`").replace("?", "%s")
_MYSQL_NEWER: Final = "(VALUES(step), VALUES(timestamp), VALUES(value)) > (step, timestamp, value)"
MYSQL_INSERT: Final = f"INSERT INTO {METRICS} {_MYSQL_VALUES} ON DUPLICATE KEY UPDATE is_nan = is_nan"
"""MySQL's and MariaDB's. Not INSERT IGNORE, which makes warnings of errors."""
MYSQL_UPSERT: Final = (
    f"INSERT INTO {LATEST} {_MYSQL_VALUES} ON DUPLICATE KEY UPDATE "
    # From left to right, and each sees what those before it have set: a column is set after all that ask for it.
    f"is_nan = IF({_MYSQL_NEWER}, VALUES(is_nan), is_nan), value = IF({_MYSQL_NEWER}, VALUES(value), value), "
    "timestamp = IF((VALUES(step), VALUES(timestamp)) > (step, timestamp), VALUES(timestamp), timestamp), "
    "step = GREATEST(step, VALUES(step))"
)
_LARGEST: Final = 1.7976931348623157e308
"""What MLflow's tables have for infinity."""


class Row(NamedTuple):
    """A row of either table, in the order of `COLUMNS`."""

    key: str
    value: float
    timestamp: int
    step: int
    is_nan: bool
    run_uuid: str


def rows_of(run: RunColumns) -> Iterator[Row]:
    """The points of a run as rows."""
    keys: Iterable[str] = map(run.keys.__getitem__, run.key)
    values, are_nan = run.value, repeat(False)
    if not all(map(math.isfinite, values)):
        are_nan = list(map(math.isnan, values))  # type: ignore[assignment]
        values = list(map(_storable, values))
    return map(Row, keys, values, run.timestamp, run.step, are_nan, repeat(run.run_id))


def latest_of(rows: Sequence[Row]) -> list[Row]:
    """The last row of each run and key, by MLflow's rule, in the order in which they are locked."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        mark = row.run_uuid, row.key
        other = found.get(mark)
        if other is None or (row.step, row.timestamp, row.value) > (other.step, other.timestamp, other.value):
            found[mark] = row
    return [found[mark] for mark in sorted(found)]


def _storable(value: float) -> float:
    """A value as MLflow's tables have it: zero for NaN, the largest number for infinity."""
    if math.isnan(value):
        return 0.0
    return math.copysign(_LARGEST, value) if math.isinf(value) else value
