"""`server.app`: MLflow's server is what it was, and an agent finds the route by itself."""

from __future__ import annotations

from typing import Any

import pytest
import requests

import tailrace
from helpers.bulk_cases import rows_of
from tailrace_agent.bulk.columns import ROUTE


def test_all_else_of_mlflows_server_is_there(bulk_server: Any) -> None:
    assert requests.get(f"{bulk_server.uri}/health", timeout=60).text == "OK"
    assert "<html" in requests.get(bulk_server.uri, timeout=60).text
    found = requests.post(f"{bulk_server.uri}/api/2.0/mlflow/experiments/search", json={"max_results": 5}, timeout=60)
    assert found.json()["experiments"]
    assert requests.get(f"{bulk_server.uri}/api/3.0/mlflow/server-info", timeout=60).status_code == 200, "FastAPI's"


@pytest.mark.parametrize("host", ["process", "thread"])
def test_an_agent_sends_what_is_many_through_the_route(
    bulk_server: Any, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_AGENT", host)
    before = bulk_server.log.read_text().count(f"POST {ROUTE}")
    with tailrace.start_run(tracking_uri=bulk_server.uri) as run:
        for step in range(10_000):
            run.log({"loss": step / 2, "accuracy": 1.0}, step=step)
        assert run.flush(120).settled
        run_id = run.run_id
    rows = rows_of(bulk_server.store, run_id)
    assert sum(row[0] in ("loss", "accuracy") for row in rows["metrics"]) == 20_000
    assert {row[0]: row[3] for row in rows["latest_metrics"]}["loss"] == 9_999
    assert bulk_server.log.read_text().count(f"POST {ROUTE}") > before
