"""Some points of one metric, evenly spread over its steps: for whoever draws it, and does not want to read ten million.

In a database that has MLflow's index by run, metric and step each of them is looked up, so the time does not grow with
the run. A server is asked as MLflow's UI asks it, and thins by itself. Other stores are read as a whole.

The first and the last point are always among them. What lies between two that were taken is not looked at, so extremes
may be missing: `Reader.extremes` knows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy
from mlflow.store.tracking.dbmodels.models import SqlMetric
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from tailrace_agent.errors import Refused
from tailrace_agent.mlflow.stores import INTERVAL_AT_MOST, interval_fetcher
from tailrace_agent.reading.history import read
from tailrace_agent.reading.read_store import Point, Thinned
from tailrace_agent.spool.extremes import unbounded

if TYPE_CHECKING:
    from tailrace_agent.mlflow.stores import Store

__all__ = ["thinned"]

_STEPS: Final = -(2**63), 2**63 - 1
_WHOLE: Final = 5_000
"""Points up to which a metric is read as a whole: that is quicker than looking some of them up."""
_AT_ONCE: Final = 100
"""Looked up by one statement; SQLite takes 500 selects in one."""


def thinned(
    store: Store, run_id: str, key: str, most: int, first: int | None = None, last: int | None = None
) -> Thinned:
    """About `most` points of one metric of one run, by step; all of them where there are few.

    Args:
        store: MLflow's.
        run_id: MLflow's id.
        key: The metric.
        most: How many are wanted.
        first: Only those of this step and later ones.
        last: Only those of this step and earlier ones.

    Raises:
        Exception: Anything that MLflow and the database driver come up with.
    """
    steps = _STEPS[0] if first is None else first, _STEPS[1] if last is None else last
    if isinstance(store, SqlAlchemyStore):
        return _from_database(store, run_id, key, most, steps)
    fetch = interval_fetcher(store)
    if fetch is not None:
        most = min(most, INTERVAL_AT_MOST)
        try:
            points = _points(fetch(run_id, key, most, None if (first, last) == (None, None) else steps))
            return Thinned(points, len(points) < most)
        except Refused:  # a server that does not have it
            pass
    return Thinned(sorted(_whole(store, run_id, key, steps)), whole=True)


def _whole(store: Store, run_id: str, key: str, steps: tuple[int, int]) -> Iterator[Point]:
    for piece in read(store, run_id, key):
        for step, time_ms, value in zip(*(column.tolist() for column in piece), strict=True):
            if steps[0] <= step <= steps[1]:
                yield step, time_ms, value


def _points(found: Iterable[dict[str, Any]]) -> list[Point]:
    # 64-bit integers are text in the JSON of protocol buffers, as are NaN and infinities.
    return sorted(
        (int(point.get("step", 0)), int(point["timestamp"]), unbounded(float(point.get("value", 0.0))))
        for point in found
    )


def _from_database(store: Store, run_id: str, key: str, most: int, steps: tuple[int, int]) -> Thinned:
    of_metric = (SqlMetric.run_uuid == run_id, SqlMetric.key == key)
    in_window = (*of_metric, SqlMetric.step >= steps[0], SqlMetric.step <= steps[1])
    columns = (SqlMetric.step, SqlMetric.timestamp, SqlMetric.value, SqlMetric.is_nan)
    with store.ManagedSessionMaker() as session:
        few = sqlalchemy.select(*columns).where(*in_window).limit(_WHOLE + 1)
        rows = session.execute(few).all()
        whole = len(rows) <= _WHOLE
        if not whole:
            first, last = (
                session.execute(sqlalchemy.select(end(SqlMetric.step)).where(*in_window)).scalar_one()
                for end in (sqlalchemy.func.min, sqlalchemy.func.max)
            )
            each = max(1, (last - first) // max(1, most - 1))
            at = [*range(first, last, each), last]
            rows = []
            for start in range(0, len(at), _AT_ONCE):
                # A statement's part each, since its order and limit are its own.
                parts = [
                    sqlalchemy.select(
                        sqlalchemy.select(*columns)
                        .where(*of_metric, SqlMetric.step >= step)  # one bound: SQLite goes by the first of two
                        .order_by(SqlMetric.step)
                        .limit(1)
                        .subquery()
                    )
                    for step in at[start : start + _AT_ONCE]
                ]
                rows += session.execute(sqlalchemy.union_all(*parts)).all()
    points = {(step, time_ms, float("nan") if nan else unbounded(value)) for step, time_ms, value, nan in rows}
    return Thinned(sorted(point for point in points if point[0] <= steps[1]), whole)
