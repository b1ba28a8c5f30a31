"""`mlflow.log_metrics` and `log_metric` of plain numbers of the active run, past what MLflow does on their way.

MLflow makes a client and an entity for each of them, looks for models that the run has made at that step, and reads two
variables of the environment: nine tenths of the call with the plug-in. Where none of that can matter, the numbers go to
the ring. All else, and each name for the first time, goes MLflow's way, which says what is wrong with it.

Between two steps of training each function that is called costs microseconds, since nothing of it is in the processor's
caches: what MLflow's own functions would look up is looked up here where they would.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, Final

import mlflow
from mlflow.tracking import fluent
from mlflow.tracking._tracking_service.utils import _tracking_store_registry, get_tracking_uri
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

from tailrace._api.metrics import LAST_TIMESTAMP
from tailrace.store.validation import STEPS, all_known

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.store.runs import StoreRun

__all__ = ["shorten_fluent_calls"]

_ASYNC: Final = "MLFLOW_ENABLE_ASYNC_LOGGING"
# Of what `os.environ` has, without the exception that it raises inside for each variable that is not set.
_environment: Final[Any] = getattr(os.environ, "_data", os.environ)
_async: Final[Any] = _ASYNC if _environment is os.environ else os.environ.encodekey(_ASYNC)
_are_floats: Final = frozenset({float}).issuperset
_last: tuple[Any, str] = (None, "")
"""The active run that was looked at last, and its id, which is a property of a property."""


def shorten_fluent_calls() -> None:
    """Has MLflow's functions take that way, under each name that they are called by."""
    for name, wrap in (("log_metrics", _log_metrics), ("log_metric", _log_metric)):
        before = getattr(fluent, name)
        if hasattr(before, "tailrace_before"):
            continue
        shortened = wrap(before)
        shortened.tailrace_before = before  # type: ignore[attr-defined]
        for module in (fluent, mlflow):
            if getattr(module, name, None) is before:
                setattr(module, name, shortened)


def _log_metrics(before: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(before)
    def log_metrics(
        metrics: Any,
        step: int | None = None,
        synchronous: bool | None = None,
        run_id: str | None = None,
        timestamp: int | None = None,
        *more: Any,
        **others: Any,
    ) -> Any:
        if run_id is None and synchronous is None and not more and not others and type(metrics) is dict:
            run = _to_write(metrics, step, timestamp)
            if run is not None:
                run.write_row(metrics, step or 0, timestamp)
                return None
        return before(metrics, step, synchronous, run_id, timestamp, *more, **others)

    return log_metrics


def _log_metric(before: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(before)
    def log_metric(
        key: str,
        value: Any,
        step: int | None = None,
        synchronous: bool | None = None,
        timestamp: int | None = None,
        run_id: str | None = None,
        *more: Any,
        **others: Any,
    ) -> Any:
        if run_id is None and synchronous is None and not more and not others and type(key) is str:
            metrics = {key: value}
            run = _to_write(metrics, step, timestamp)
            if run is not None:
                run.write_row(metrics, step or 0, timestamp)
                return None
        return before(key, value, step, synchronous, timestamp, run_id, *more, **others)

    return log_metric


def _to_write(metrics: dict[str, Any], step: int | None, timestamp: int | None) -> StoreRun | None:
    """The active run of this thread, if nothing but the ring is needed for these."""
    if (
        not 0 < len(metrics) <= MAX_METRICS_PER_BATCH
        or not all_known(metrics)
        or not _are_floats(map(type, metrics.values()))
        or not (step is None or (type(step) is int and -STEPS < step < STEPS))
        or not (timestamp is None or (type(timestamp) is int and 0 < timestamp <= LAST_TIMESTAMP))
        or _async in _environment
    ):
        return None
    try:
        active, began_in = fluent._active_run_stack.thread_local.value
        model, set_in = fluent._ACTIVE_MODEL_CONTEXT.thread_local.value
    except AttributeError:  # this thread has not asked for them yet, which MLflow's way does
        return None
    if not active or model.model_id is not None or not began_in == set_in == os.getpid():
        return None
    global _last  # replaced as a whole, so threads need no lock
    run, run_id = _last
    if active[-1] is not run:
        run = active[-1]
        run_id = run.info.run_id
        _last = run, run_id
    outputs = run.outputs  # anew: `log_model` adds to it
    if outputs is not None and outputs.model_outputs:  # MLflow notes which of its models has them
        return None
    store = _tracking_store_registry._get_store_with_resolved_uri(get_tracking_uri(), None)
    runs = getattr(store, "tailrace_runs", None)
    found: StoreRun | None = None if runs is None else runs.to_write(run_id)
    return found
