"""What the bulk way has to write as `log_batch` does: batches of points, and the rows that either leaves."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import sqlalchemy
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import _get_store

from tailrace_agent.bulk.columns import ModelOf, RunColumns, as_columns
from tailrace_agent.bulk.tables import write
from tailrace_agent.ipc.records import Point

__all__ = ["CASES", "Batch", "by_bulk", "by_log_batch", "columns", "new_run", "open_store", "refuse_deleted", "rows_of"]

Batch = Sequence[Point]
_AT = 1_700_000_000_000


def _some(seed: int, n: int) -> list[Point]:
    """Points of a few keys, steps and values, so that many of them share some or all of it."""
    draw = random.Random(seed)
    values = (0.0, -0.0, 1.5, -2.25, 5e-324, 1.7976931348623157e308, math.nan, math.inf, -math.inf, 1 / 3)
    keys = ("loss", "a/b c", "system/cpu:0", "größe", "x" * 250)
    return [
        Point(draw.choice(keys), draw.choice(values), _AT + draw.randrange(3), draw.randrange(-2, 5)) for _ in range(n)
    ]


CASES: dict[str, Sequence[Batch]] = {
    "one point": [[Point("loss", 0.5, _AT, 1)]],
    "no point": [[]],
    "not a number": [[Point("loss", math.nan, _AT, 1), Point("loss", 0.0, _AT, 1), Point("loss", math.nan, _AT, 2)]],
    "infinities": [[Point("loss", math.inf, _AT, 1), Point("loss", -math.inf, _AT, 2), Point("a", -math.inf, _AT, 1)]],
    "out of order": [[Point("loss", 1.0, _AT + 5, 9), Point("loss", 2.0, _AT + 9, 3)], [Point("loss", 3.0, _AT, 8)]],
    "an older step, and a newer one": [
        [Point("a", 1.0, _AT, 5)],
        [Point("a", 2.0, _AT + 1, 4)],
        [Point("a", 0.0, 0, 6)],
    ],
    "one step at several times": [[Point("a", value, _AT + at, 5) for value, at in ((1.0, 1), (2.0, 1), (3.0, 0))]],
    "equal but for the value": [[Point("a", value, _AT, 5) for value in (1.0, -1.0, 7.0, math.nan)]],
    "twins in a batch": [[Point("a", 1.0, _AT, 5)] * 3 + [Point("a", math.nan, _AT, 6)] * 2],
    "the same batch again": [_some(1, 200), _some(1, 200)],
    "a batch that was stored in part": [_some(2, 100), _some(2, 300)],
    "many batches": [_some(seed, 150) for seed in range(10, 20)],
    "the ends of what a number may be": [[Point("a", -1.0, 0, -(2**63)), Point("b", 1.0, 2**63 - 1, 2**63 - 1)]],
    "a thousand keys": [[Point(f"key {number}", float(number), _AT, number) for number in range(1000)]],
}


def open_store(uri: str) -> Any:
    return _get_store(uri)


def new_run(store: Any, experiment_id: str = "0") -> str:
    run_id: str = store.create_run(experiment_id, "ada", 0, [], "a run").info.run_id
    return run_id


def by_log_batch(store: Any, run_id: str, points: Batch, model: ModelOf | None = None) -> None:
    of = {} if model is None else {name: getattr(model, name) for name in model.__struct_fields__}
    store.log_batch(run_id, [Metric(*point, **of, run_id=run_id) for point in points], [], [])


def by_bulk(store: Any, run_id: str, points: Batch, model: ModelOf | None = None) -> None:
    write(store, [columns(run_id, points, model)])


def columns(run_id: str, points: Batch, model: ModelOf | None = None) -> RunColumns:
    found = as_columns(run_id, points)
    if model is not None:
        found.models, found.model = [model], [0] * len(points)
    return found


# With their table before them, since MySQL has `key` for a word of its own.
_TABLES = {
    "metrics": ("run_uuid", "metrics.key, value, timestamp, step, is_nan"),
    "latest_metrics": ("run_uuid", "latest_metrics.key, value, timestamp, step, is_nan"),
    "logged_model_metrics": (
        "run_id",
        "model_id, metric_name, metric_timestamp_ms, metric_step, metric_value, dataset_name, dataset_digest",
    ),
}


def rows_of(store: Any, run_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a run in the tables that hold metrics, its id left out."""
    with store.engine.connect() as connection:
        return {
            table: _sorted(
                connection.execute(sqlalchemy.text(f"SELECT {wanted} FROM {table} WHERE {run} = :run"), {"run": run_id})
            )
            for table, (run, wanted) in _TABLES.items()
        }


def _sorted(rows: Iterable[Any]) -> list[tuple[Any, ...]]:
    # Zero without its sign: databases take both for one number, and keep the one that came first; psycopg2 drops it.
    plain = (tuple(field + 0.0 if isinstance(field, float) else field for field in row) for row in rows)
    return sorted(plain, key=repr)


def refuse_deleted(store: Any) -> None:
    """A request with a deleted run is refused as a whole, in the words of `log_batch`."""
    point = Point("loss", 0.5, _AT, 1)
    gone, other = new_run(store), new_run(store)
    store.delete_run(gone)
    with pytest.raises(MlflowException) as theirs:
        by_log_batch(store, gone, [point])
    with pytest.raises(MlflowException) as ours:
        write(store, [columns(other, [point]), columns(gone, [point])])
    assert (ours.value.error_code, ours.value.message) == (theirs.value.error_code, theirs.value.message)
    assert rows_of(store, other)["metrics"] == []
