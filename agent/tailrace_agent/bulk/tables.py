"""Points into MLflow's own tables, thousands at once, with the rows that `log_batch` would have written.

Invariants
----------
1. One transaction: all points of a request are stored, or none.
2. What is there already is passed over by the tables' own key, so a request that is sent twice adds nothing, and costs
   what the first one did. `log_batch` looks for such rows in a query that grows with the run.
3. `latest_metrics` follows MLflow's rule: (step, timestamp, value), the first of equals stays.
4. Where a database has several writers, rows of both tables are written in one order, so that no two writers of the
   same run ever wait for each other.
5. Whatever MLflow refuses is refused here in its own words: by its own checks of ids, names and runs.
6. Only tables that `fitness` knows are written; all others, and points of logged models, go through `log_batch`.

Loading this module imports MLflow.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

from mlflow.entities import Metric
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric
from mlflow.utils.validation import MAX_METRICS_PER_BATCH, _validate_metric, _validate_run_id
from sqlalchemy.engine import Connection

from tailrace_agent.bulk.columns import RunColumns
from tailrace_agent.bulk.fitness import Unfit, version_fault

__all__ = ["write"]

_LARGEST: Final = 1.7976931348623157e308
"""What MLflow's tables have for infinity."""
_METRICS: Final = SqlMetric.__tablename__
_LATEST: Final = SqlLatestMetric.__tablename__
_COLUMNS: Final = "key, value, timestamp, step, is_nan, run_uuid"
_NEWER: Final = (
    "ON CONFLICT (key, run_uuid) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in ("value", "timestamp", "step", "is_nan"))
    + " WHERE (excluded.step, excluded.timestamp, excluded.value)"
    + f" > ({_LATEST}.step, {_LATEST}.timestamp, {_LATEST}.value)"
)
_QMARKS: Final = f"({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
_UNNEST: Final = (
    f"({_COLUMNS}) SELECT {_COLUMNS} FROM unnest(CAST(%s AS text[]), CAST(%s AS double precision[]), "  # noqa: S608
    f"CAST(%s AS bigint[]), CAST(%s AS bigint[]), CAST(%s AS boolean[]), CAST(%s AS text[])) AS points({_COLUMNS})"
)


_PLACE: Final = operator.itemgetter(5, 0, 3, 2, 1, 4)
"""Where a row stands among others: by run, key, step, timestamp, value."""


class _Row(NamedTuple):
    """A row of either table, in the order of `_COLUMNS`."""

    key: str
    value: float
    timestamp: int
    step: int
    is_nan: bool
    run_uuid: str


def write(store: Any, runs: Sequence[RunColumns]) -> None:
    """Stores the points of some runs, as `store.log_batch` would.

    Args:
        store: One of MLflow's, which `fitness.check_store` has found fit.
        runs: The points; each run once.

    Raises:
        Unfit: The database has been migrated since. Nothing was stored.
        MlflowException: As from `log_batch`.
    """
    for run in runs:
        _validate(run)
    plain = sorted((run for run in runs if not run.models), key=lambda run: run.run_id)
    with store.ManagedSessionMaker(read_only=False) as session:
        connection: Connection = session.connection()
        fault = version_fault(connection)
        if fault is None:
            for run in plain:
                store._check_run_is_active(store._get_run(run_uuid=run.run_id, session=session))
            rows = [row for run in plain for row in _rows(run)]
            if rows:
                _insert(connection, rows)
    if fault is not None:  # not within the session, which makes an error of MLflow's of whatever it meets
        raise Unfit(fault)
    for run in runs:
        if run.models:
            _through_log_batch(store, run)


def _validate(run: RunColumns) -> None:
    _validate_run_id(run.run_id)
    for number in set(run.key):
        _validate_metric(run.keys[number], 0.0, 0, 0)
    if run.timestamp and (earliest := min(run.timestamp)) < 0:
        at = run.timestamp.index(earliest)
        _validate_metric(run.keys[run.key[at]], run.value[at], earliest, run.step[at], f"metrics[{at}]")


def _rows(run: RunColumns) -> Iterator[_Row]:
    keys: Iterable[str] = map(run.keys.__getitem__, run.key)
    values, are_nan = run.value, repeat(False)
    if not all(map(math.isfinite, values)):
        are_nan = list(map(math.isnan, values))  # type: ignore[assignment]
        values = list(map(_storable, values))
    return map(_Row, keys, values, run.timestamp, run.step, are_nan, repeat(run.run_id))


def _storable(value: float) -> float:
    """A value as MLflow's tables have it: zero for NaN, the largest number for infinity."""
    if math.isnan(value):
        return 0.0
    return math.copysign(_LARGEST, value) if math.isinf(value) else value


def _insert(connection: Connection, rows: Sequence[_Row]) -> None:
    latest = _latest(rows)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"INSERT INTO {_METRICS} {_QMARKS} ON CONFLICT DO NOTHING", list(rows))
        connection.exec_driver_sql(f"INSERT INTO {_LATEST} {_QMARKS} {_NEWER}", latest)
        return
    ordered = sorted(rows, key=_PLACE)  # two that insert the same rows wait for each other, row by row
    connection.exec_driver_sql(f"INSERT INTO {_METRICS} {_UNNEST} ON CONFLICT DO NOTHING", _arrays(ordered))
    # In the order of the database, as MLflow locks them, and not in that of Python.
    connection.exec_driver_sql(f"INSERT INTO {_LATEST} {_UNNEST} ORDER BY run_uuid, key {_NEWER}", _arrays(latest))


def _latest(rows: Sequence[_Row]) -> list[_Row]:
    """The last row of each run and key, by MLflow's rule, in the order in which they are locked."""
    found: dict[tuple[str, str], _Row] = {}
    for row in rows:
        mark = row.run_uuid, row.key
        other = found.get(mark)
        if other is None or (row.step, row.timestamp, row.value) > (other.step, other.timestamp, other.value):
            found[mark] = row
    return [found[mark] for mark in sorted(found)]


def _arrays(rows: Sequence[_Row]) -> tuple[str, ...]:
    """A column each as PostgreSQL writes arrays: every driver takes a text, and none has to adapt each number."""
    keys, values, timestamps, steps, are_nan, runs = zip(*rows, strict=True)
    quoted = {text: _quoted(text) for text in {*keys, *runs}}
    columns: tuple[Iterable[str], ...] = (
        map(quoted.__getitem__, keys),
        map(repr, values),
        map(str, timestamps),
        map(str, steps),
        map(str, are_nan),
        map(quoted.__getitem__, runs),
    )
    return tuple("{" + ",".join(column) + "}" for column in columns)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _through_log_batch(store: Any, run: RunColumns) -> None:
    of = [None if number is None else run.models[number] for number in run.model] or [None] * len(run.key)
    metrics = [
        Metric(
            run.keys[key],
            value,
            timestamp,
            step,
            model_id=model and model.model_id,
            dataset_name=model and model.dataset_name,
            dataset_digest=model and model.dataset_digest,
            run_id=run.run_id,
        )
        for key, value, timestamp, step, model in zip(run.key, run.value, run.timestamp, run.step, of, strict=True)
    ]
    for first in range(0, len(metrics), MAX_METRICS_PER_BATCH):
        store.log_batch(run.run_id, metrics[first : first + MAX_METRICS_PER_BATCH], [], [])
