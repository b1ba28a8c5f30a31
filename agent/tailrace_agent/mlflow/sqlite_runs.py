"""Runs in a SQLite database of MLflow's: `run_store.RunStore` for runs that are there, without importing MLflow.

The import takes a second of CPU, beside a training that has just begun. A run that MLflow's own client has created
needs to be found, written to and ended, which is a few statements; they leave the rows that MLflow's store leaves.

Invariants
----------
1. Only a database whose schema has a version and columns that were tested is written to; the version is read in the
   transaction that writes. Any other is left to MLflow's own store, from then on.
2. Whatever MLflow would refuse (a name, a param that changes, a run that is deleted or not there) is left to MLflow's
   own store as well, with nothing written, so that it is refused in MLflow's words.
3. So is everything that is not done here: new runs and experiments, artifacts, models. What is read back of runs, for
   a person, is in `reading.sqlite_reads`.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.bulk.columns import as_columns
from tailrace_agent.bulk.rows import INSERT, TESTED, TESTED_MLFLOW, UPSERT, VERSION, latest_of, rows_of
from tailrace_agent.ipc.records import Kind, Point
from tailrace_agent.ipc.tags import RUN_NAME_TAG
from tailrace_agent.mlflow import name_rules
from tailrace_agent.mlflow.lean_import import import_lean
from tailrace_agent.mlflow.plug_ins import has_plug_ins
from tailrace_agent.mlflow.run_store import AT_ONCE, Page, Run
from tailrace_agent.settings.uris import check_uri, resolve_uri

if TYPE_CHECKING:
    from tailrace_agent.mlflow.own_runs import MlflowRuns

__all__ = ["LeftToMlflow", "SqliteRuns", "known_database"]

_PREFIX: Final = "sqlite:///"
_OTHER_PATHS: Final = ("?", "#", "%", ":memory:", "file:")
"""What makes a path one that SQLAlchemy or SQLite read differently."""
_MLFLOWS_OWN: Final = ("MLFLOW_ENABLE_WORKSPACES", "MLFLOW_WORKSPACE", "_MLFLOW_SERVER_ARTIFACT_ROOT")
"""Variables with which MLflow's store does more."""
_POINT_COLUMNS: Final = frozenset(("key", "value", "timestamp", "step", "is_nan", "run_uuid"))
_TEXT_COLUMNS: Final = frozenset(("key", "value", "run_uuid"))
_TABLES: Final[dict[str, frozenset[str]]] = {
    "experiments": frozenset(
        (
            *("experiment_id", "name", "artifact_location", "lifecycle_stage", "creation_time", "last_update_time"),
            "workspace",
        )
    ),
    "metrics": _POINT_COLUMNS,
    "latest_metrics": _POINT_COLUMNS,
    "params": _TEXT_COLUMNS,
    "tags": _TEXT_COLUMNS,
    "runs": frozenset(
        (
            *("run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status"),
            *("start_time", "end_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id"),
            "deleted_time",
        )
    ),
}
_RUN: Final = "SELECT run_uuid, experiment_id, name, status, lifecycle_stage, end_time, artifact_uri FROM runs"
_TAGS: Final = "SELECT key, value FROM tags WHERE run_uuid = ?"
_PARAMS: Final = "SELECT key, value FROM params WHERE run_uuid = ?"
_LATEST: Final = "SELECT key, step, value, is_nan FROM latest_metrics WHERE run_uuid = ?"
_RUNNING_WITH_TAG: Final = (
    "SELECT run_uuid, experiment_id, tags.value FROM tags JOIN runs USING(run_uuid) "
    "WHERE key = ? AND status = 'RUNNING' AND lifecycle_stage = 'active'"
)
_STATUSES: Final = frozenset(("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"))
_LOOKING_TAKES: Final = 1.0
"""Seconds in which a database that is locked comes free, or is MLflow's to wait for."""


class LeftToMlflow(Exception):
    """Nothing was done: it is for MLflow's own store."""


def known_database(tracking_uri: str | None, cwd: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The absolute URI of a SQLite database that may be written to; None where MLflow's own store is needed.

    Args:
        tracking_uri: As a program gives it; None is MLflow's default, which MLflow knows.
        cwd: Directory from which a relative path is meant.
        environ: The process environment.
    """
    uri = resolve_uri(tracking_uri or environ.get("MLFLOW_TRACKING_URI", ""), cwd)
    path = uri.removeprefix(_PREFIX)
    if path == uri or any(other in path for other in _OTHER_PATHS) or check_uri(uri, environ) is not None:
        return None
    if any(environ.get(name) for name in _MLFLOWS_OWN) or has_plug_ins() or not _mlflow_is_tested():
        return None
    try:
        with closing(_connected(Path(path), _LOOKING_TAKES)) as connection:
            fit = _version_is_known(connection) and all(
                {column[1] for column in connection.execute(f"PRAGMA table_info({table})")} == columns
                for table, columns in _TABLES.items()
            )
    except sqlite3.Error:  # not there, locked, or no database: MLflow says it best
        return None
    return uri if fit else None


def _mlflow_is_tested() -> bool:
    """Whether the MLflow that is installed makes such tables: another one would refuse them, and is to say so."""
    try:
        return version("mlflow").startswith(TESTED_MLFLOW)
    except PackageNotFoundError:  # mlflow-skinny, which has no database, or none
        return False


class SqliteRuns:
    """The runs of such a database. In a process of tailrace's own alone: it may import MLflow without pandas.

    Args:
        uri: From `known_database`.
        cwd: Directory that MLflow's own store is opened for.
        request_timeout: Seconds that one request may take, waiting for the database's lock included.

    Thread safety: any thread may call it.
    """

    remote: Final = False

    def __init__(self, uri: str, cwd: str, request_timeout: float) -> None:
        self._uri, self._cwd, self._timeout = uri, cwd, request_timeout
        self._path = Path(uri.removeprefix(_PREFIX))
        self.bulk = self
        self._fit = True
        self._opening = threading.Lock()
        self._own: MlflowRuns | None = None

    # -- what is done here -------------------------------------------------------------------------------------------

    def name_fault(self, kind: Kind, key: str) -> str | None:
        """Why MLflow would refuse a name."""
        return name_rules.name_fault(kind, key)

    def run(self, run_id: str) -> Run:
        """A run, deleted ones included."""
        try:
            with self.transaction("BEGIN") as connection:
                row = connection.execute(f"{_RUN} WHERE run_uuid = ?", (run_id,)).fetchone()
                if row is None:
                    raise LeftToMlflow
                tags, params = (dict(connection.execute(select, (run_id,))) for select in (_TAGS, _PARAMS))
                latest = connection.execute(_LATEST, (run_id,)).fetchall()
        except LeftToMlflow:
            return self._mlflow().run(run_id)
        found, experiment_id, name, status, stage, end_time, artifact_uri = row
        name = name or tags.get(RUN_NAME_TAG) or ""
        steps = {key: step for key, step, _, _ in latest}
        values = {key: math.nan if is_nan else value for key, _, value, is_nan in latest}
        where = str(experiment_id), name, status, stage, end_time, artifact_uri or ""
        return Run(found, *where, tags, params, steps, values)

    def running_with_tag(self, experiment_ids: Sequence[str], key: str) -> dict[str, str]:
        """The running ones of some experiments that have a tag."""
        try:
            with self.transaction("BEGIN") as connection:
                found = connection.execute(_RUNNING_WITH_TAG, (key,)).fetchall()
        except LeftToMlflow:
            return self._mlflow().running_with_tag(experiment_ids, key)
        wanted = set(experiment_ids)
        return {run_id: value or "" for run_id, experiment_id, value in found if str(experiment_id) in wanted}

    def update_run(self, run_id: str, status: str, end_time: int | None, name: str | None) -> None:
        """Sets the status; end time and name where they are not None."""
        try:
            if name is not None or status not in _STATUSES:
                raise LeftToMlflow
            with self.transaction("BEGIN IMMEDIATE") as connection:
                _require_active(connection, run_id)
                connection.execute(
                    "UPDATE runs SET status = ?, end_time = coalesce(?, end_time) WHERE run_uuid = ?",
                    (status, end_time, run_id),
                )
        except LeftToMlflow:
            self._mlflow().update_run(run_id, status, end_time, name)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Point] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Writes one batch."""
        try:
            self._write(run_id, metrics, params, tags)
        except LeftToMlflow:
            self._mlflow().log_batch(run_id, metrics, params, tags)

    def at_once(self, waiting: int) -> int:
        """Points that one transaction takes."""
        return AT_ONCE if self._fit else self._mlflow().bulk.at_once(waiting)

    def send(self, run_id: str, points: Sequence[Point]) -> bool:
        """Writes all points, or none."""
        try:
            self._write(run_id, points, (), ())
        except LeftToMlflow:
            bulk = self._mlflow().bulk
            return bulk.at_once(len(points)) >= len(points) and bulk.send(run_id, points)
        return True

    # -- what is MLflow's --------------------------------------------------------------------------------------------

    def delete_tag(self, run_id: str, key: str) -> None:
        """Takes a tag away."""
        self._mlflow().delete_tag(run_id, key)

    def default_experiment(self) -> str:
        """What MLflow takes here for a run that names no experiment."""
        return self._mlflow().default_experiment()

    def experiment_named(self, name: str) -> str:
        """The id of an experiment; created when missing."""
        return self._mlflow().experiment_named(name)

    def active_experiments(self) -> list[str]:
        """The ids of the experiments that are not deleted."""
        return self._mlflow().active_experiments()

    def create_run(
        self, experiment_id: str, user: str, start_time: int, tags: Sequence[tuple[str, str]], name: str | None
    ) -> Run:
        """A new run, which is running."""
        return self._mlflow().create_run(experiment_id, user, start_time, tags, name)

    def search_runs(self, experiment_ids: Sequence[str], query: str) -> list[Run]:
        """The runs of some experiments that a filter finds."""
        return self._mlflow().search_runs(experiment_ids, query)

    def delete_run(self, run_id: str) -> None:
        """Marks a run as deleted."""
        self._mlflow().delete_run(run_id)

    def metric_page(self, run_id: str, key: str, token: str | None) -> Page:
        """A page of a metric's history."""
        return self._mlflow().metric_page(run_id, key, token)

    def place_here(self, artifact_uri: str) -> Path | None:
        """None: no server is between."""
        del artifact_uri
        return None  # one of the protocol's answers

    def repository(self, artifact_uri: str) -> Any:
        """Where the artifacts of a run go."""
        return self._mlflow().repository(artifact_uri)

    def mlflows_own(self) -> Any:
        """MLflow's own store for this database."""
        return self._mlflow().mlflows_own()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _mlflow(self) -> MlflowRuns:
        with self._opening:
            if self._own is None:
                import_lean()
                from tailrace_agent.mlflow import stores
                from tailrace_agent.mlflow.own_runs import MlflowRuns

                store = stores.open_store(self._uri, self._cwd, self._timeout)
                self._own = MlflowRuns(self._uri, store, self._timeout)
            return self._own

    @contextmanager
    def transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """Within it all is done, or nothing; a connection of its own, so that a file that was replaced is noticed.

        Raises:
            LeftToMlflow: The database has been migrated since it was looked at.
            sqlite3.Error: It is locked, away or damaged.
        """
        if not self._fit:
            raise LeftToMlflow
        with closing(_connected(self._path, self._timeout)) as connection:
            connection.execute(begin)
            try:
                if not _version_is_known(connection):
                    self._fit = False
                    raise LeftToMlflow
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _write(
        self,
        run_id: str,
        metrics: Sequence[Point],
        params: Sequence[tuple[str, str]],
        tags: Sequence[tuple[str, str]],
    ) -> None:
        values = dict(params)
        if _refusable(run_id, metrics, params, tags):
            raise LeftToMlflow
        rows = list(rows_of(as_columns(run_id, metrics)))
        with self.transaction("BEGIN IMMEDIATE") as connection:
            _require_active(connection, run_id)
            if values:
                known = dict(connection.execute(_PARAMS, (run_id,)))
                if any(known.get(key, value) != value for key, value in values.items()):
                    raise LeftToMlflow
                connection.executemany(
                    "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    [(key, value, run_id) for key, value in values.items()],
                )
            if rows:
                connection.executemany(INSERT, rows)
                connection.executemany(UPSERT, latest_of(rows))
            connection.executemany(
                "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?) "
                "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value",
                [(key, value, run_id) for key, value in tags],
            )


def _connected(path: Path, timeout: float) -> sqlite3.Connection:
    """A connection to a file that is there, without transactions that begin by themselves."""
    # In any thread: it may be closed by the garbage collector's.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )


def _version_is_known(connection: sqlite3.Connection) -> bool:
    found = [row[0] for row in connection.execute(VERSION)]
    return len(found) == 1 and found[0] in TESTED


def _require_active(connection: sqlite3.Connection, run_id: str) -> None:
    row = connection.execute("SELECT lifecycle_stage FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    if row is None or row[0] != "active":
        raise LeftToMlflow


def _refusable(
    run_id: str, metrics: Sequence[Point], params: Sequence[tuple[str, str]], tags: Sequence[tuple[str, str]]
) -> bool:
    """Whether MLflow would refuse or change some of it, or do more than to store it."""
    if not name_rules.is_run_id(run_id) or len(dict(params)) != len(params):
        return True
    if any(point.timestamp < 0 or type(point.value) is not float for point in metrics):
        return True
    names: tuple[tuple[Kind, set[str]], ...] = (
        ("metric", {point.key for point in metrics}),
        ("param", {key for key, _ in params}),
        ("tag", {key for key, _ in tags}),
    )
    if any(name_rules.name_fault(kind, key) is not None for kind, keys in names for key in keys):
        return True
    return (
        any(len(value) > name_rules.PARAM_CHARS for _, value in params)
        or any(len(value) > name_rules.TAG_CHARS for _, value in tags)
        or any(key == RUN_NAME_TAG for key, _ in tags)
    )
