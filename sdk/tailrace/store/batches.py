"""Batches of plain numbers, past what MLflow's client does to each of their metrics.

MLflow's client makes every metric anew, to have its value be a number and to give it the active model, cuts the batch
to what a server takes, and notes the call for its statistics of usage. Of a few numbers, with no active model, that
comes to nothing, and is two fifths of the time that `mlflow.log_metrics` takes with the plug-in.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mlflow.tracking import fluent
from mlflow.tracking._tracking_service.client import TrackingServiceClient
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["pass_batches_on"]


def pass_batches_on() -> None:
    """Has MLflow's client give such a batch to a store with the plug-in as it is."""
    before = TrackingServiceClient.log_batch
    if hasattr(before, "tailrace_before"):
        return

    @functools.wraps(before)
    def log_batch(
        client: Any,
        run_id: str,
        metrics: Sequence[Any] = (),
        params: Sequence[Any] = (),
        tags: Sequence[Any] = (),
        synchronous: bool = True,
    ) -> Any:
        if synchronous and not params and not tags and _plain(metrics):
            store = client.store
            if hasattr(store, "tailrace_runs"):
                store.log_batch(run_id=run_id, metrics=metrics, params=params, tags=tags)
                return None
        return before(client, run_id, metrics, params, tags, synchronous)

    log_batch.tailrace_before = before  # type: ignore[attr-defined]
    TrackingServiceClient.log_batch = log_batch


def _plain(metrics: Sequence[Any]) -> bool:
    """Whether these are numbers of a run alone, and no more than go at once."""
    if not 0 < len(metrics) <= MAX_METRICS_PER_BATCH or fluent.get_active_model_id() is not None:
        return False
    return all(type(metric.value) is float and metric.model_id is None for metric in metrics)
