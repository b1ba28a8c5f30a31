"""Whether MLflow's tables are those that the bulk way was tested with. If not, `log_batch` does the work.

Three things have to be as they were: the store is MLflow's own for databases (a plug-in's may do more with a metric),
the database's schema has a version of `TESTED`, and its tables have the columns and keys that are written here. The
version is read in the transaction that writes, so a database that is migrated meanwhile is noticed at once.

Loading this module imports MLflow.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.engine import Connection

from tailrace_agent.bulk.rows import TESTED, VERSION

__all__ = ["MYSQL", "Unfit", "check_store", "unfit", "version_fault"]

MYSQL: Final = ("mysql", "mariadb")
"""SQLAlchemy's names for MySQL and MariaDB, which are written to in one way."""
_DIALECTS: Final = ("sqlite", "postgresql", *MYSQL)
_MYSQL_DRIVERS: Final = ("pymysql", "mysqldb")
"""Those that make one statement of many rows, none longer than the server takes."""
_COLUMNS: Final = frozenset(("key", "value", "timestamp", "step", "is_nan", "run_uuid"))
_KEYS: Final = {
    SqlMetric.__tablename__: frozenset(("key", "timestamp", "step", "run_uuid", "value", "is_nan")),
    SqlLatestMetric.__tablename__: frozenset(("key", "run_uuid")),
}


class Unfit(Exception):
    """This store's points have to go through `log_batch`. The message says why."""


def check_store(store: Any) -> None:
    """Looks at a store once, without its rows.

    Raises:
        Unfit: It is not one that the bulk way was tested with.
        Exception: Whatever the database comes up with.
    """
    if type(store) not in (SqlAlchemyStore, _with_workspaces()):
        raise Unfit(f"{type(store).__name__} is no store of MLflow's for databases")
    dialect = store.engine.dialect
    if dialect.name not in _DIALECTS:
        raise Unfit(f"it was not tested with {dialect.name}")
    if dialect.name in MYSQL and dialect.driver not in _MYSQL_DRIVERS:
        raise Unfit(f"it was not tested with the driver {dialect.driver}")
    with store.engine.connect() as connection:
        fault = version_fault(connection)
        if fault is not None:
            raise Unfit(fault)
        inspector = sqlalchemy.inspect(connection)
        for table, key in _KEYS.items():
            columns = {column["name"] for column in inspector.get_columns(table)}
            if columns != _COLUMNS or set(inspector.get_pk_constraint(table)["constrained_columns"]) != key:
                raise Unfit(f"the table {table} is not MLflow's own")


def version_fault(connection: Connection) -> str | None:
    """Why the version of the database's schema is none that was tested, or None."""
    found = [row[0] for row in connection.exec_driver_sql(VERSION)]
    if len(found) == 1 and found[0] in TESTED:
        return None
    return f"it was not tested with the version {', '.join(found) or 'none'} of MLflow's tables"


def unfit(store: Any) -> str | None:
    """Why the bulk way is not for this store, or None; see `check_store`."""
    try:
        check_store(store)
    except Unfit as reason:
        return str(reason)
    return None


def _with_workspaces() -> type | None:
    try:
        from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
    except ImportError:  # older than workspaces
        return None
    found: type = WorkspaceAwareSqlAlchemyStore
    return found
