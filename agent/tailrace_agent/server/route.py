"""The bulk route: `GET` says how many points a request may hold, `POST` stores those of several runs.

Invariants
----------
1. No point is stored before MLflow was asked about each run of the request: the app's own `before_request` hooks see a
   `log_batch` for that run, with the caller's headers. What they answer (401, 403, whatever an auth plug-in says) is
   the answer, and nothing of the request is stored.
2. What is wrong is said as MLflow says it: its JSON, its codes. A request that is none of ours is a 400, one that is
   too large a 413.
3. Where MLflow's tables are not those that were tested, the route is as if it were not there: 404, and whoever asked
   sends `log_batch`.

Loading this module imports MLflow's server.
"""

from __future__ import annotations

import contextvars
import logging
from typing import Any, Final

import msgspec
from flask import Flask, Response, current_app, request
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, ENDPOINT_NOT_FOUND
from mlflow.server.handlers import _add_static_prefix, _disable_if_artifacts_only, _get_tracking_store
from mlflow.server.handlers import catch_mlflow_exception as as_mlflow_answers

from tailrace_agent.bulk import fitness, tables
from tailrace_agent.bulk.columns import BYTES_AT_MOST, POINTS_AT_MOST, ROUTE, Offer, RunColumns, Taken, decode

__all__ = ["LOG_BATCH", "add_route"]

LOG_BATCH: Final = "/api/2.0/mlflow/runs/log-batch"
"""What MLflow is asked about, before its static prefix."""
_OF_THE_BODY: Final = ("content-length", "content-type", "transfer-encoding", "host")
_fit_stores: set[int] = set()
_TOO_LARGE: Final = 413
_log: Final = logging.getLogger("mlflow.tailrace")


def add_route(app: Flask) -> None:
    """Adds the route to MLflow's app, once.

    Args:
        app: `mlflow.server.app`, before it serves.
    """
    if "tailrace_offer" in app.view_functions:
        return
    path = _add_static_prefix(ROUTE)
    for name, method, view in (("tailrace_offer", "GET", _offer), ("tailrace_take", "POST", _take)):
        app.add_url_rule(path, name, as_mlflow_answers(_disable_if_artifacts_only(view)), methods=[method])


def _offer() -> Response:
    reason = fitness.unfit(_get_tracking_store())
    if reason is not None:
        _log.warning("tailrace's bulk route is not used, and agents send log_batch: %s", reason)
        raise _absent(reason)
    return _json(Offer(POINTS_AT_MOST))


def _take() -> Response:
    if request.content_length is None or request.content_length > BYTES_AT_MOST:
        return Response(f"a request has at most {BYTES_AT_MOST} bytes, and says how many", _TOO_LARGE)
    try:
        runs = decode(request.get_data(cache=False))
    except ValueError as error:
        raise MlflowException(f"this is no request of points: {error}", BAD_REQUEST) from error
    for run in runs:
        refused = _refused(run)
        if refused is not None:
            return refused
    try:
        store = _get_tracking_store()
        _fit(store)
        tables.write(store, runs)
    except fitness.Unfit as reason:
        raise _absent(str(reason)) from None
    return _json(Taken(sum(len(run.key) for run in runs)))


def _refused(run: RunColumns) -> Response | None:
    """What MLflow's app answers in place of a `log_batch` for this run, before it comes to that; or None."""
    # In a context of its own: what the hooks leave behind (a workspace, a user) ends with the question.
    return contextvars.copy_context().run(_asked, run)


def _asked(run: RunColumns) -> Response | None:
    models = [{"key": "k", "value": 0, "timestamp": 0, "step": 0, "model_id": model.model_id} for model in run.models]
    headers = [(name, value) for name, value in request.headers if name.lower() not in _OF_THE_BODY]
    with current_app.test_request_context(
        _add_static_prefix(LOG_BATCH),
        method="POST",
        base_url=request.root_url,
        headers=headers,
        json={"run_id": run.run_id, "metrics": models},
        environ_overrides={"REMOTE_ADDR": request.remote_addr or ""},
    ):
        answer = current_app.preprocess_request()
        return None if answer is None else current_app.make_response(answer)


def _fit(store: Any) -> None:
    """Looks at the store's tables at the first request of a process; `tables.write` at their version each time."""
    if id(store) not in _fit_stores:  # MLflow's server has one store for as long as it lives
        fitness.check_store(store)
        _fit_stores.add(id(store))


def _absent(reason: str) -> MlflowException:
    return MlflowException(f"there is no bulk route for these tables: {reason}", ENDPOINT_NOT_FOUND)


def _json(answer: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(answer), mimetype="application/json")
