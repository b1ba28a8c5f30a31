"""The links that MLflow prints when a run ends, by what this process knows of it.

MLflow asks the server for the run's name first, and tries for minutes where that is away; only then it ends the run.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mlflow.tracking._tracking_service.client import TrackingServiceClient

from tailrace.store.offline import LocalRun
from tailrace.store.placed_store import answering_with

if TYPE_CHECKING:
    from tailrace.store.runs import StoreRuns

__all__ = ["link_by_what_is_known"]


def link_by_what_is_known() -> None:
    """Has MLflow print a run's link without a request, and none under an id that MLflow does not have."""
    before = TrackingServiceClient._log_url
    if hasattr(before, "tailrace_before"):
        return

    @functools.wraps(before)
    def log_url(client: Any, run_id: str) -> None:
        runs: StoreRuns | None = getattr(client.store, "tailrace_runs", None)
        run = None if runs is None else runs.known(run_id)
        if run is None:
            before(client, run_id)
        elif not isinstance(run, LocalRun) or run.is_in_mlflow:
            with answering_with(run.remembered()):
                before(client, run.mlflow_id)

    log_url.tailrace_before = before  # type: ignore[attr-defined]
    TrackingServiceClient._log_url = log_url
