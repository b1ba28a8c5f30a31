"""A metric's whole history in columns, without an object for each point.

MLflow makes an entity of every point, and in a database an ORM object before it. Here a database is queried for its
four columns, and a server's page is decoded straight into arrays. Other stores (files, plug-ins) take MLflow's own way.

What comes back is complete: pages are followed to their end. A number that MLflow could not keep is what it was: NaN,
and an infinity, which MLflow's databases keep as the largest double.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
import sqlalchemy
from mlflow.store.tracking import GET_METRIC_HISTORY_MAX_RESULTS
from mlflow.store.tracking.dbmodels.models import SqlMetric
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from tailrace_agent.decoding import json_decoder
from tailrace_agent.mlflow.pages import pages
from tailrace_agent.mlflow.stores import HISTORY_AT_MOST, bulk_fetcher, in_flight, page_fetcher
from tailrace_agent.spool.extremes import LARGEST, unbounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tailrace_agent.mlflow.stores import Store

__all__ = ["Columns", "extremes", "read"]

_ROWS: Final = 65_536  # of a database at once: some MB as tuples
_AT_ONCE: Final = 400  # runs, and as many metrics: SQLite took 999 parameters in a statement for long
# MLflow's own bound: its server refuses a request for more.
_RUNS_IN_A_URL: Final = 100


class Columns(NamedTuple):
    """Some points of one metric: arrays of one length."""

    step: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    value: NDArray[np.float64]


# 64-bit integers are text in the JSON of protocol buffers, as are NaN and infinities.
class _Point(msgspec.Struct, gc=False):
    timestamp: int | str
    value: float | str = 0.0
    step: int | str = 0


class _Page(msgspec.Struct):
    """A page as `pages` takes it."""

    metrics: list[_Point] = []
    token: str = msgspec.field(default="", name="next_page_token")

    def __len__(self) -> int:
        return len(self.metrics)


_decoder = json_decoder(_Page)


def read(store: Store, run_id: str, key: str, *, by_step: bool = False) -> Iterator[Columns]:
    """Every point of one metric of one run, in pieces and in no promised order.

    Args:
        store: MLflow's.
        run_id: MLflow's id.
        key: The metric.
        by_step: Have a database sort them by step; what comes otherwise is in the store's own order, mostly by time.

    Raises:
        Exception: Anything that MLflow and the database driver come up with.
    """
    if isinstance(store, SqlAlchemyStore):
        return _from_database(store, run_id, key, by_step)
    fetch = page_fetcher(store)
    return _from_server(fetch, run_id, key) if fetch is not None else _from_pages(store, run_id, key)


def extremes(store: Store, wanted: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], tuple[float, float]]:
    """Smallest and largest value, NaN aside, by `(run_id, key)`; a metric that has no other value is left out.

    One grouped query in a database. Over HTTP the histories are read, a metric of many runs in a request and some
    requests at once; elsewhere one by one. No more is in memory than the answers that are under way.

    Args:
        store: MLflow's.
        wanted: Ids of runs by the metric that is wanted of them. A database gives all metrics of all these runs.
    """
    if isinstance(store, SqlAlchemyStore):
        return _grouped(store, list({run_id: None for run_ids in wanted.values() for run_id in run_ids}), list(wanted))
    fetch = bulk_fetcher(store)
    some = _RUNS_IN_A_URL if fetch is not None else 1
    jobs = [
        (key, run_ids[start : start + some])
        for key, run_ids in wanted.items()
        for start in range(0, len(run_ids), some)
    ]
    answers = in_flight(store, lambda job: dict(_bounds(store, fetch, job[1], job[0])), jobs)
    return {
        (run_id, key): bounds
        for (key, _), answer in zip(jobs, answers, strict=True)
        for run_id, bounds in answer.items()
    }


def _columns(steps: Any, timestamps: Any, values: Any) -> Columns:
    numbers = np.array(values, dtype=np.float64)
    edge = np.abs(numbers) == LARGEST
    numbers[edge] = np.copysign(np.inf, numbers[edge])
    return Columns(np.array(steps, dtype=np.int64), np.array(timestamps, dtype=np.int64), numbers)


def _from_database(store: Store, run_id: str, key: str, by_step: bool) -> Iterator[Columns]:
    columns = (SqlMetric.step, SqlMetric.timestamp, SqlMetric.value, SqlMetric.is_nan)
    statement = sqlalchemy.select(*columns).where(SqlMetric.run_uuid == run_id, SqlMetric.key == key)
    if by_step:
        statement = statement.order_by(SqlMetric.step, SqlMetric.timestamp)
    with store.ManagedSessionMaker() as session:
        for rows in session.execute(statement.execution_options(yield_per=_ROWS)).partitions():
            steps, timestamps, values, nans = zip(*rows, strict=True)
            piece = _columns(steps, timestamps, values)
            piece.value[np.array(nans, dtype=bool)] = np.nan  # a database keeps a NaN as 0, and a flag
            yield piece


def _from_server(fetch: Any, run_id: str, key: str) -> Iterator[Columns]:
    # Both, as MLflow's own client sends them: `run_uuid` is what older servers read.
    params = {"run_id": run_id, "run_uuid": run_id, "metric_key": key, "max_results": GET_METRIC_HISTORY_MAX_RESULTS}

    def page_of(token: str | None) -> _Page:
        return _decoder.decode(fetch({**params, "page_token": token} if token else params))

    for page in pages(page_of):
        if page:
            yield _columns(
                [int(point.step) for point in page.metrics],
                [int(point.timestamp) for point in page.metrics],
                [float(point.value) for point in page.metrics],  # "NaN" and "Infinity" are words in JSON
            )


def _from_pages(store: Store, run_id: str, key: str) -> Iterator[Columns]:
    for page in pages(lambda token: store.get_metric_history(run_id, key, GET_METRIC_HISTORY_MAX_RESULTS, token)):
        if page:
            yield _columns(
                [point.step for point in page], [point.timestamp for point in page], [point.value for point in page]
            )


def _bounds(store: Store, fetch: Any, run_ids: Sequence[str], key: str) -> Iterator[tuple[str, tuple[float, float]]]:
    """Several runs in one request; of an answer that is full, and so may be cut off, the last run is fetched again."""
    while fetch is not None and len(run_ids) > 1:
        by_run: dict[str, list[float]] = {}
        points = fetch(run_ids, key)  # sorted by run
        for point in points:
            by_run.setdefault(point["run_id"], []).append(float(point["value"]))
        unread = []
        if len(points) >= HISTORY_AT_MOST:
            last = points[-1]["run_id"]
            del by_run[last]  # of which some may be missing; of those before it none is
            # Also such as have no points, or come behind the last one: nobody can tell which.
            unread = [run_id for run_id in run_ids if run_id not in by_run]
            if not by_run:  # it fills an answer alone, so it takes pages
                unread.remove(last)
                yield from _bounds_of(last, _long(store, last, key))
        for run_id, values in by_run.items():
            yield from _bounds_of(run_id, [_columns([], [], values).value])
        run_ids = unread
    for run_id in run_ids:
        yield from _bounds_of(run_id, _long(store, run_id, key))


def _long(store: Store, run_id: str, key: str) -> Iterator[NDArray[np.float64]]:
    return (piece.value for piece in read(store, run_id, key))


def _bounds_of(run_id: str, pieces: Iterable[NDArray[np.float64]]) -> Iterator[tuple[str, tuple[float, float]]]:
    """One pair, or none where nothing but NaN is."""
    ends = [(numbers.min(), numbers.max()) for piece in pieces if (numbers := piece[~np.isnan(piece)]).size]
    if ends:
        yield run_id, (float(min(low for low, _ in ends)), float(max(high for _, high in ends)))


def _grouped(store: Store, run_ids: Sequence[str], keys: Sequence[str]) -> dict[tuple[str, str], tuple[float, float]]:
    found = {}
    value = SqlMetric.value
    with store.ManagedSessionMaker() as session:
        for some, of_these in product(_portions(run_ids), _portions(keys)):
            statement = (
                sqlalchemy.select(
                    SqlMetric.run_uuid, SqlMetric.key, sqlalchemy.func.min(value), sqlalchemy.func.max(value)
                )
                .where(SqlMetric.run_uuid.in_(some), SqlMetric.key.in_(of_these), SqlMetric.is_nan.is_(False))
                .group_by(SqlMetric.run_uuid, SqlMetric.key)
            )
            for run_id, key, low, high in session.execute(statement):
                found[run_id, key] = (unbounded(low), unbounded(high))
    return found


def _portions(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]
