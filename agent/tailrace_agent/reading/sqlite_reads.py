"""`read_store.ReadStore` for a SQLite database of MLflow's, without importing MLflow.

Only what `mlflow.sqlite_runs` would write to is read here: a plain file of a known version. A filter or an order that
is not of the plain kinds is left to MLflow's own store, as is all of a database that is migrated meanwhile.

A statement takes a moment, and no lock is kept between two of them: whoever reads a long history slowly, through a
pager for instance, keeps nobody from writing.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tailrace_agent.ipc.tags import RUN_NAME_TAG
from tailrace_agent.mlflow.run_store import Page
from tailrace_agent.mlflow.sqlite_runs import LeftToMlflow, SqliteRuns
from tailrace_agent.reading.own_reads import OwnReads
from tailrace_agent.reading.read_store import (
    ACTIVE_ONLY,
    ALL,
    Experiment,
    LastPoint,
    Peaks,
    Point,
    RunEntity,
    RunInfo,
    Thinned,
    offset_of,
    token_of,
)
from tailrace_agent.reading.sqlite_filters import condition
from tailrace_agent.spool.extremes import unbounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace_agent.reading.history import Columns

__all__ = ["SqliteReads"]

_WHOLE: Final = 5_000
"""Points up to which all are read: that is as quick as looking some of them up."""
_AT_ONCE: Final = 200_000
"""Points whose extremes one statement finds: less than a tenth of a second."""
_WIDTHS: Final = 2_000
_ROWS: Final = 20_000
_STEPS: Final = -(2**63), 2**63 - 1
_NEWEST: Final[tuple[list[str], ...]] = ([], ["attributes.start_time DESC"])
"""The orders that are MLflow's default."""
_STAGES: Final = {ACTIVE_ONLY: ("active",), ALL: ("active", "deleted")}
_RUN: Final = (
    "SELECT run_uuid, experiment_id, name, status, start_time, end_time, lifecycle_stage, artifact_uri FROM runs"
)
_OF_EXPERIMENTS: Final = (
    "WHERE experiment_id IN (SELECT value FROM json_each(?)) AND lifecycle_stage IN (SELECT value FROM json_each(?))"
)
_NEWEST_FIRST: Final = "ORDER BY start_time DESC, run_uuid"
_OF_THESE: Final = "WHERE run_uuid IN (SELECT value FROM json_each(?))"
_POINTS: Final = "SELECT step, timestamp, value, is_nan FROM metrics WHERE run_uuid = ? AND key = ?"
_Answer = TypeVar("_Answer")


class SqliteReads(SqliteRuns):
    """Reads one database. Args and thread safety as of `SqliteRuns`."""

    def experiment_page(self, size: int, token: str | None) -> Any:
        """As `ReadStore`."""
        select = "SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active'"

        def read(connection: sqlite3.Connection) -> Page:
            at = offset_of(token)
            order = "ORDER BY creation_time DESC, experiment_id LIMIT ? OFFSET ?"
            rows = connection.execute(f"{select} {order}", (size + 1, at)).fetchall()
            return _page([Experiment(str(number), name) for number, name in rows], size, at)

        return self._done(read, lambda own: own.experiment_page(size, token))

    def run_page(
        self,
        experiment_ids: Sequence[str],
        query: str,
        view: int,
        size: int,
        order_by: Sequence[str],
        token: str | None,
    ) -> Any:
        """As `ReadStore`."""

        def read(connection: sqlite3.Connection) -> Page:
            where = condition(query)
            if where is None or list(order_by) not in _NEWEST or not all(map(str.isdecimal, experiment_ids)):
                raise LeftToMlflow
            at = offset_of(token)
            ids, stages = json.dumps(list(map(int, experiment_ids))), json.dumps(_STAGES[view])
            select = f"{_RUN} {_OF_EXPERIMENTS} AND {where.sql} {_NEWEST_FIRST} LIMIT ? OFFSET ?"
            rows = connection.execute(select, (ids, stages, *where.values, size + 1, at)).fetchall()
            return _page(_entities(connection, rows), size, at)

        return self._done(read, lambda own: own.run_page(experiment_ids, query, view, size, order_by, token))

    def read_run(self, run_id: str) -> Any:
        """As `ReadStore`."""

        def read(connection: sqlite3.Connection) -> RunEntity:
            rows = connection.execute(f"{_RUN} WHERE run_uuid = ?", (run_id,)).fetchall()
            if not rows:
                raise LeftToMlflow
            return _entities(connection, rows)[0]

        return self._done(read, lambda own: own.read_run(run_id))

    def history(self, run_id: str, key: str, *, by_step: bool) -> Iterator[Columns]:
        """As `ReadStore`."""
        return OwnReads(self.mlflows_own()).history(run_id, key, by_step=by_step)

    def read_points(self, run_id: str, key: str) -> Iterator[Sequence[Point]]:
        """As `ReadStore`: by step and time."""
        # A page ends between two steps, and the next one begins there: one that has more points is read as a whole.
        first: int | None = _STEPS[0]
        while first is not None:
            points, first = self._points_from(run_id, key, first)
            yield points

    def thinned(self, run_id: str, key: str, most: int, first: int | None, last: int | None) -> Thinned:
        """As `ReadStore`: all, where they are few; else some, of which each is looked up in MLflow's index."""
        low, high = _STEPS[0] if first is None else first, _STEPS[1] if last is None else last

        def read(connection: sqlite3.Connection) -> Thinned:
            of_metric = (run_id, key)
            few = f"{_POINTS} AND step BETWEEN ? AND ? LIMIT ?"
            rows = connection.execute(few, (*of_metric, low, high, _WHOLE + 1)).fetchall()
            whole = len(rows) <= _WHOLE
            if not whole:
                ends = "SELECT {}(step) FROM metrics WHERE run_uuid = ? AND key = ? AND step BETWEEN ? AND ?"
                begin, end = (
                    connection.execute(ends.format(which), (*of_metric, low, high)).fetchone()[0]
                    for which in ("min", "max")
                )
                each = max(1, (end - begin) // max(1, most - 1))
                one = f"{_POINTS} AND step >= ? ORDER BY step LIMIT 1"
                found = (connection.execute(one, (*of_metric, at)).fetchone() for at in (*range(begin, end, each), end))
                rows = [row for row in found if row is not None and row[0] <= high]
            return Thinned(sorted(set(map(_point, rows))), whole)

        return self._done(read, lambda own: own.thinned(run_id, key, most, first, last))

    def peaks(self, run_id: str, key: str, width: int, first: int, last: int) -> Peaks | None:
        """As `ReadStore`: of 200,000 points, or some more."""
        # One statement for each: to group them, SQLite would sort all points first.
        found = "SELECT count(*), min(step), min(value), max(value) FROM metrics WHERE run_uuid = ? AND key = ?"
        end = f"{_POINTS} AND step BETWEEN ? AND ? ORDER BY step DESC LIMIT 1"

        def read(connection: sqlite3.Connection) -> Peaks:
            points: list[Point] = []
            begin, seen = first, 0
            for _ in range(_WIDTHS):
                if begin > last or seen >= _AT_ONCE:
                    break
                steps = run_id, key, begin, min(last, begin + width - 1)
                n, step, low, high = connection.execute(
                    f"{found} AND step BETWEEN ? AND ? AND NOT is_nan", steps
                ).fetchone()
                if n:
                    # Where exactly they are is narrower than what is drawn; the last one is for a moving average.
                    points += [(step, 0, unbounded(low)), (step, 0, unbounded(high))]
                    points.append(_point(connection.execute(end, steps).fetchone()))
                begin, seen = begin + width, seen + n
            return Peaks(points, begin if begin <= last else None)

        return self._done(read, lambda own: own.peaks(run_id, key, width, first, last))

    def _points_from(self, run_id: str, key: str, first: int) -> tuple[Sequence[Point], int | None]:
        """Some points from a step on, and the step where the next ones begin."""

        def read(connection: sqlite3.Connection) -> tuple[Sequence[Point], int | None]:
            select = f"{_POINTS} AND step >= ? ORDER BY step LIMIT ?"
            rows = connection.execute(select, (run_id, key, first, _ROWS + 1)).fetchall()
            if len(rows) <= _ROWS:
                return sorted(map(_point, rows)), None
            beyond = rows[-1][0]
            if rows[0][0] < beyond:
                return sorted(_point(row) for row in rows if row[0] < beyond), beyond
            one = f"{_POINTS} AND step = ? ORDER BY timestamp"
            rows = connection.execute(one, (run_id, key, beyond)).fetchall()
            return [_point(row) for row in rows], beyond + 1 if beyond < _STEPS[1] else None

        def left(own: OwnReads) -> tuple[Sequence[Point], int | None]:
            points = [point for piece in own.read_points(run_id, key) for point in piece if point[0] >= first]
            return points, None

        return self._done(read, left)

    def _done(self, read: Callable[[sqlite3.Connection], _Answer], left: Callable[[OwnReads], _Answer]) -> _Answer:
        """What is read in one transaction, or what MLflow's own store gives."""
        try:
            with self.transaction("BEGIN") as connection:
                connection.execute("PRAGMA case_sensitive_like = 1")  # as MLflow has it
                return read(connection)
        except LeftToMlflow:
            return left(OwnReads(self.mlflows_own()))


def _page(found: list[Any], size: int, at: int) -> Page:
    """One more than a page was read, to see whether there is a next one."""
    return Page(found[:size], token_of(at + size) if len(found) > size else None)


def _entities(connection: sqlite3.Connection, rows: Sequence[Any]) -> list[RunEntity]:
    ids = json.dumps([row[0] for row in rows])

    def by_run(select: str) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for run_id, *columns in connection.execute(f"{select} {_OF_THESE}", (ids,)):
            found.setdefault(run_id, []).append(columns)
        return found

    params = by_run("SELECT run_uuid, key, value FROM params")
    tags = by_run("SELECT run_uuid, key, value FROM tags")
    latest = by_run("SELECT run_uuid, key, value, timestamp, step, is_nan FROM latest_metrics")
    entities = []
    for run_id, experiment_id, name, status, start, end, stage, artifacts in rows:
        metrics = [
            LastPoint(key, math.nan if is_nan else value, timestamp, step)
            for key, value, timestamp, step, is_nan in latest.get(run_id, ())
        ]
        labels = {key: value or "" for key, value in tags.get(run_id, ())}
        shown = name or labels.get(RUN_NAME_TAG, "")
        info = RunInfo(run_id, str(experiment_id), shown, status, start or 0, end, stage, artifacts or "")
        entities.append(RunEntity(info, metrics, params.get(run_id, ()), labels.items()))
    return entities


def _point(row: tuple[int, int, float, int]) -> Point:
    """A database keeps a NaN as 0, and a flag; an infinity as the largest double."""
    step, timestamp, value, is_nan = row
    return step, timestamp, math.nan if is_nan else unbounded(value)
