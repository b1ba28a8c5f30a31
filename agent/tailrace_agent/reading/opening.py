"""Before a store is read: whether there is one, and whether it can be read without importing MLflow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tailrace_agent.errors import StoreAbsent, StoreRefused
from tailrace_agent.mlflow.errors import mask
from tailrace_agent.mlflow.sqlite_runs import known_database
from tailrace_agent.reading.read_store import ReadStore
from tailrace_agent.rest.plain_server import plain_server
from tailrace_agent.settings.uris import check_uri, missing_file

__all__ = ["check_store", "without_mlflow"]

_SQLITE: Final = "sqlite:///"
_HEAD: Final = b"SQLite format 3\0"


def check_store(uri: str, *, create: bool) -> None:
    """Makes sure that an absolute tracking URI can be one of a store, without opening it.

    Args:
        uri: The tracking URI.
        create: A SQLite file that is not there will be made.

    Raises:
        StoreAbsent: There is no such file yet.
        StoreRefused: It cannot; the message says what to do.
    """
    fault = check_uri(uri, os.environ)
    if fault is not None:
        raise StoreRefused(f"MLflow cannot use {mask(uri)}: {fault}")
    # MLflow would make an empty database of it, and a mistyped path would look like a store without runs.
    absent = missing_file(uri)
    if absent is not None and not create:
        raise StoreAbsent(f"there is no store {absent} yet: nothing was logged to it, or the tracking URI is another")
    other = _other_file(uri)
    if other is not None:
        raise StoreRefused(f"{other} is no SQLite database: check the tracking URI")


def without_mlflow(uri: str, cwd: str, request_timeout: float) -> ReadStore | None:
    """The store of an absolute URI, to be read without importing MLflow; None where only MLflow knows how.

    Args:
        uri: The tracking URI.
        cwd: Directory that MLflow's own store is opened for, where it is needed later.
        request_timeout: Seconds that one request may take.
    """
    if (server := plain_server(uri)) is not None:
        from tailrace_agent.reading.server_reads import ServerReads

        return ServerReads(server, cwd, request_timeout)
    if (database := known_database(uri, cwd)) is not None:
        from tailrace_agent.reading.sqlite_reads import SqliteReads

        return SqliteReads(database, cwd, request_timeout)
    return None


def _other_file(uri: str) -> Path | None:
    """The file that a SQLite URI names, if it holds something else; what cannot be read is left for MLflow to say."""
    if not uri.startswith(_SQLITE):
        return None
    path = Path(uri.removeprefix(_SQLITE).partition("?")[0])
    try:
        with path.open("rb") as file:
            head = file.read(len(_HEAD))
    except OSError:
        return None
    return path if head and head != _HEAD else None
