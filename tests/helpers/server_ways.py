"""A plain server, spoken to in both ways: through MLflow's own store, and in requests of tailrace's own."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from helpers.recorder import Recorded
from tailrace_agent.mlflow.own_runs import MlflowRuns
from tailrace_agent.mlflow.run_store import RunStore
from tailrace_agent.mlflow.stores import open_store
from tailrace_agent.rest.server_runs import ServerRuns

__all__ = ["TIMEOUT", "mlflows", "ours", "seen"]

TIMEOUT = 5.0


def mlflows(uri: str) -> RunStore:
    return MlflowRuns(uri, open_store(uri, "/", TIMEOUT), TIMEOUT)


def ours(uri: str) -> RunStore:
    return ServerRuns(uri, "/", TIMEOUT)


def seen(request: Recorded) -> tuple[Any, ...]:
    """Bodies of JSON as what they hold, since their blanks are nobody's business."""
    address = urlsplit(request.address)
    body = json.loads(request.body) if "json" in request.headers.get("Content-Type", "") else request.body
    headers = {key.lower(): value for key, value in request.headers.items() if key.lower() != "content-length"}
    return request.method, address.path, parse_qsl(address.query, keep_blank_values=True), headers, body
