"""The stores that this process reads from, each opened once: opening a database takes a good part of a second."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tailrace_agent.settings.uris import resolve_uri

if TYPE_CHECKING:
    from tailrace._runs.core import RunCore
    from tailrace_agent.reading.reader import Reader

__all__ = ["experiment_id_of", "reader_at", "stored_run"]

_readers: dict[tuple[str, float | None], Reader] = {}


def reader_at(tracking_uri: str | None, cwd: str, request_timeout: float | None = None) -> Reader:
    """Reads a store.

    Args:
        tracking_uri: None means what MLflow would take in `cwd`.
        cwd: Directory from which relative paths are meant.
        request_timeout: Seconds that one request may take; as long as a person would wait when None.

    Raises:
        SinkError, StoreRefused: It is away, is not there yet, or cannot be used.

    Thread safety: any thread. Two at once may open a store twice, and one of the two stays.
    """
    from tailrace_agent.reading.reader import open_reader

    # With the directory: MLflow's default store lies in it.
    named = resolve_uri(tracking_uri, cwd) if tracking_uri else f"in {cwd}"
    reader = _readers.get((named, request_timeout))
    if reader is None:
        bounds: dict[str, Any] = {} if request_timeout is None else {"request_timeout": request_timeout}
        reader = _readers[named, request_timeout] = open_reader(tracking_uri, cwd, **bounds)
    return reader


def experiment_id_of(name: str, tracking_uri: str | None, cwd: str) -> str:
    """MLflow's id of an experiment; made where it is missing, the store itself included.

    Raises:
        SinkError, StoreRefused: The store is away, refuses it (it was deleted), or cannot be used.
    """
    from tailrace_agent.mlflow.experiments import experiment_named
    from tailrace_agent.reading.reader import open_reader

    reader = open_reader(tracking_uri, cwd, create=True)
    with reader.translated_errors(about_run=False):
        return experiment_named(reader.store, name)


def stored_run(run: RunCore, *, settled: bool) -> Any:
    """MLflow's `Run` of a run, as its store has it now.

    Args:
        run: The run; its creation is waited for.
        settled: Wait until all that was logged before this call is there, `end_timeout` at most.

    Raises:
        TimeoutError, SinkError, StoreRefused: MLflow could not be reached in time, or cannot be used.
    """
    run_id = run.known().run_id
    if settled:
        run.flush()
    # The settings have the password that the run's record has not.
    reader = reader_at(run.settings.tracking_uri, run.spec.cwd)
    with reader.translated_errors(about_run=True):
        return reader.store.get_run(run_id)


# A connection of the parent's is not to be used by both.
os.register_at_fork(after_in_child=_readers.clear)
