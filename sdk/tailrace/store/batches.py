"""Batches of plain numbers, past what MLflow's client does to each of their metrics.

MLflow's client makes every metric anew, to have its value be a number and to give it the active model, cuts the batch
to what a server takes, and notes the call for its statistics of usage. Of a few numbers, with no active model, that
comes to nothing, and is most of the time that the call takes with the plug-in. Numbers of one step and time, as a
framework's logger has them, go to the ring as they are; each name goes MLflow's way the first time, which says what is
wrong with it.

Between two steps of training each function that is called costs microseconds, since nothing of it is in the processor's
caches: what MLflow's own functions would look up is looked up here where they would.
"""

from __future__ import annotations

import functools
import os
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from mlflow.tracking import fluent
from mlflow.tracking._tracking_service.utils import _tracking_store_registry
from mlflow.tracking.client import MlflowClient
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

from tailrace._api.metrics import LAST_TIMESTAMP
from tailrace.store.validation import STEPS, all_known

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["pass_batches_on"]

_ASYNC: Final = "MLFLOW_ENABLE_ASYNC_LOGGING"
# Of what `os.environ` has, without the exception that it raises inside for each variable that is not set.
_environment: Final[Any] = getattr(os.environ, "_data", os.environ)
_async: Final[Any] = _ASYNC if _environment is os.environ else os.environ.encodekey(_ASYNC)
_fields: Final = attrgetter("_key", "_value", "_timestamp", "_step", "_model_id")
"""Of MLflow's `Metric`, in one call: each of its properties is one."""


def pass_batches_on() -> None:
    """Has MLflow's client give such a batch to a store with the plug-in as it is."""
    before = MlflowClient.log_batch
    if hasattr(before, "tailrace_before"):
        return

    @functools.wraps(before)
    def log_batch(
        client: Any,
        run_id: str,
        metrics: Sequence[Any] = (),
        params: Sequence[Any] = (),
        tags: Sequence[Any] = (),
        synchronous: bool | None = None,
    ) -> Any:
        if (synchronous or (synchronous is None and _async not in _environment)) and not (params or tags):
            inner = client._tracking_client
            uri = inner.tracking_uri
            # As its property `store` finds it: in MLflow's cache, which the plug-in empties when it is installed.
            store = _tracking_store_registry._get_store_with_resolved_uri(uri, None) if uri else inner.store
            runs = getattr(store, "tailrace_runs", None)
            if runs is not None and 0 < len(metrics) <= MAX_METRICS_PER_BATCH and not _is_model_active():
                row = _row(metrics)
                run = runs.known(run_id) if row is not None and type(run_id) is str else None
                if row is not None and run is not None:
                    run.write_row(*row)
                    return None
                if _plain(metrics):
                    store.log_batch(run_id=run_id, metrics=metrics, params=params, tags=tags)
                    return None
        return before(client, run_id, metrics, params, tags, synchronous)

    log_batch.tailrace_before = before  # type: ignore[attr-defined]
    MlflowClient.log_batch = log_batch


def _is_model_active() -> bool:
    """Whether metrics of this thread are those of a model, too."""
    try:
        model, set_in = fluent._ACTIVE_MODEL_CONTEXT.thread_local.value
        if set_in == os.getpid():
            return model.model_id is not None
    except AttributeError:  # this thread has not asked yet, or this MLflow keeps it elsewhere
        pass
    return fluent.get_active_model_id() is not None


def _row(metrics: Sequence[Any]) -> tuple[dict[str, float], int, int] | None:
    """Numbers of one step and time whose names are known, with these; None of all else."""
    row: dict[str, float] = {}
    try:
        timestamp, step = _fields(metrics[0])[2:4]
        for metric in metrics:
            key, value, at, of, model_id = _fields(metric)
            if type(value) is not float or model_id is not None or of != step or at != timestamp:
                return None
            row[key] = value
    except (AttributeError, TypeError):  # no metrics of MLflow's, or of a version that has them otherwise
        return None
    if len(row) < len(metrics) or type(step) is not int or type(timestamp) is not int:
        return None
    if not (-STEPS < step < STEPS and 0 <= timestamp <= LAST_TIMESTAMP):
        return None
    return (row, step, timestamp) if all_known(row) else None


def _plain(metrics: Sequence[Any]) -> bool:
    """Whether these are numbers that belong to no model."""
    return all(type(metric.value) is float and metric.model_id is None for metric in metrics)
