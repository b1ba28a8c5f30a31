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
7. MySQL may take two keys for one (`Loss` and `loss`), as its collations do. Where it has, the request is taken back
   and left to `log_batch`, which refuses the second one.

Loading this module imports MLflow.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Final

from mlflow.entities import Metric
from mlflow.utils.validation import MAX_METRICS_PER_BATCH, _validate_metric, _validate_run_id
from sqlalchemy.engine import Connection

from tailrace_agent.bulk.columns import RunColumns
from tailrace_agent.bulk.fitness import MYSQL, Unfit, version_fault
from tailrace_agent.bulk.rows import (
    COLUMNS,
    INSERT,
    LATEST,
    METRICS,
    MYSQL_INSERT,
    MYSQL_UPSERT,
    NEWER,
    UPSERT,
    Row,
    latest_of,
    rows_of,
)

__all__ = ["write"]

_UNNEST: Final = (
    f"({COLUMNS}) SELECT {COLUMNS} FROM unnest(CAST(%s AS text[]), CAST(%s AS double precision[]), "  # noqa: S608
    f"CAST(%s AS bigint[]), CAST(%s AS bigint[]), CAST(%s AS boolean[]), CAST(%s AS text[])) AS points({COLUMNS})"
)


_PLACE: Final = operator.itemgetter(5, 0, 3, 2, 1, 4)
"""Where a row stands among others: by run, key, step, timestamp, value."""
_MYSQL_PLACE: Final = operator.itemgetter(0, 2, 3, 5, 1, 4)
"""The same in MySQL, whose locks reach to the row before in the table: as the tables' own keys have them."""
_KEYS_AT_ONCE: Final = 500


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
    # MLflow's own way with deadlocks, where it has one: MySQL may find them between writers of different runs.
    again = getattr(store, "_run_with_deadlock_retry", None)
    written = _write_plain(store, plain) if again is None else again(_write_plain, store, plain)
    for run in runs:
        if run.models or not written:
            _through_log_batch(store, run)


def _write_plain(store: Any, runs: Sequence[RunColumns]) -> bool:
    """Whether the points of these runs, which have none of models, were stored; if not, none of them is."""
    written = True
    with store.ManagedSessionMaker(read_only=False) as session:
        connection: Connection = session.connection()
        fault = version_fault(connection)
        if fault is None:
            for run in runs:
                store._check_run_is_active(store._get_run(run_uuid=run.run_id, session=session))
            rows = [row for run in runs for row in rows_of(run)]
            if rows:
                written = _insert(connection, rows)
        if not written:
            session.rollback()
    if fault is not None:  # not within the session, which makes an error of MLflow's of whatever it meets
        raise Unfit(fault)
    return written


def _validate(run: RunColumns) -> None:
    _validate_run_id(run.run_id)
    for number in set(run.key):
        _validate_metric(run.keys[number], 0.0, 0, 0)
    if run.timestamp and (earliest := min(run.timestamp)) < 0:
        at = run.timestamp.index(earliest)
        _validate_metric(run.keys[run.key[at]], run.value[at], earliest, run.step[at], f"metrics[{at}]")


def _insert(connection: Connection, rows: Sequence[Row]) -> bool:
    """Whether each key is stored as it is."""
    latest = latest_of(rows)
    name = connection.dialect.name
    if name == "sqlite":
        connection.exec_driver_sql(INSERT, list(rows))
        connection.exec_driver_sql(UPSERT, latest)
        return True
    if name in MYSQL:
        connection.exec_driver_sql(MYSQL_INSERT, sorted(rows, key=_MYSQL_PLACE))
        connection.exec_driver_sql(MYSQL_UPSERT, sorted(latest, key=_MYSQL_PLACE))
        return _has_keys(connection, latest)
    ordered = sorted(rows, key=_PLACE)  # two that insert the same rows wait for each other, row by row
    connection.exec_driver_sql(f"INSERT INTO {METRICS} {_UNNEST} ON CONFLICT DO NOTHING", _arrays(ordered))
    # In the order of the database, as MLflow locks them, and not in that of Python.
    connection.exec_driver_sql(f"INSERT INTO {LATEST} {_UNNEST} ORDER BY run_uuid, key {NEWER}", _arrays(latest))
    return True


def _has_keys(connection: Connection, latest: Sequence[Row]) -> bool:
    """Whether MySQL has each of these keys letter by letter, and not another one that it takes for the same."""
    wanted = {(row.run_uuid, row.key) for row in latest}
    # A row that another writer has just committed is seen by the second one only, which locks what it looks for.
    for how in ("", " FOR UPDATE"):
        for run_id in {run_id for run_id, _ in wanted}:
            keys = [key for run, key in wanted if run == run_id]
            for first in range(0, len(keys), _KEYS_AT_ONCE):
                some = keys[first : first + _KEYS_AT_ONCE]
                places = ", ".join(["%s"] * len(some))
                asked = f"SELECT `key` FROM {LATEST} WHERE run_uuid = %s AND `key` IN ({places}){how}"  # noqa: S608
                wanted -= {(run_id, key) for (key,) in connection.exec_driver_sql(asked, (run_id, *some))}
        if not wanted:
            return True
    return False


def _arrays(rows: Sequence[Row]) -> tuple[str, ...]:
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
