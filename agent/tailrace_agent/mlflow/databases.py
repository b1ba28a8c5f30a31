"""A database for runs, with its tables.

MLflow makes the tables in every process that finds some missing, without a lock: of two that do so at once one fails,
and that may be the user's own program, whose `MlflowClient()` comes while the agent opens a new database.

* A SQLite file that is not there is made elsewhere, and appears in its place with all its tables at once.
* One that is there without them, and is being written to, is left to whoever is making it for a while.

Importing this module imports MLflow.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import mlflow.store.db.utils as mlflow_db
import sqlalchemy

__all__ = ["prepare_database"]

_AWAITED: Final = 20.0
"""Seconds in which somebody else may make the tables; MLflow takes two on a quick disk."""
_AT_WORK: Final = 2.0
"""Seconds without a change after which nobody is making them."""
_LOOK_EVERY: Final = 0.05


def prepare_database(uri: str) -> None:
    """Makes sure that a database answers, and has its tables.

    Args:
        uri: SQLAlchemy's.

    Raises:
        Exception: What MLflow, SQLAlchemy and the driver come up with.
    """
    mlflow_db._make_parent_dirs_if_sqlite(uri)
    path = _sqlite_file(uri)
    if path is not None and not path.exists():
        # Whatever is in the way of that: below it is made in its place.
        with suppress(OSError, sqlalchemy.exc.OperationalError):
            _make_elsewhere(path)
    # MLflow's own way into a database tries ten times with growing pauses, and creates the tables without a lock.
    engine = mlflow_db.create_sqlalchemy_engine(uri)
    try:
        with engine.connect():  # raises at once where the database is away
            pass
        if path is not None:
            _await_whoever_makes_it(engine, path)
        mlflow_db._safe_initialize_tables(engine)
    finally:
        engine.dispose()  # the store opens an engine of its own


def _sqlite_file(uri: str) -> Path | None:
    """The file, where it is one."""
    url = sqlalchemy.engine.make_url(uri)
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith((":", "file:")):
        return None
    return Path(url.database)


def _make_elsewhere(path: Path) -> None:
    """Makes a database with all tables, and has it appear at `path`, if nothing is there by then."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="tailrace-") as directory:
        made = Path(directory, "mlflow.db")
        engine = mlflow_db.create_sqlalchemy_engine(f"sqlite:///{made}")
        try:
            mlflow_db._initialize_tables(engine)
        finally:
            engine.dispose()
        try:
            with made.open("rb") as source, beside.open("wb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
            os.link(beside, path)  # unlike a rename, it replaces nothing
        finally:
            beside.unlink(missing_ok=True)


def _await_whoever_makes_it(engine: Any, path: Path) -> None:
    """Waits while somebody else seems to be making the tables."""
    until = time.monotonic() + _AWAITED
    while time.time() - path.stat().st_mtime < _AT_WORK and not _is_whole(engine) and time.monotonic() < until:
        time.sleep(_LOOK_EVERY)


def _is_whole(engine: Any) -> bool:
    """Whether all tables are there, as they are to be at last."""
    if not mlflow_db._all_tables_exist(engine):
        return False
    return bool(mlflow_db._get_schema_version(engine) == mlflow_db._get_latest_schema_revision())
