"""A study behind Optuna's gRPC proxy: workers need no way to its database."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from helpers.sdk_tools import tracking
from helpers.serving import free_port
from tailrace.hpo import OptunaRunner
from tailrace.hpo.storage import open_storage

pytestmark = pytest.mark.services

PROXY = """
import sys
import optuna
optuna.storages.run_grpc_proxy_server(
    optuna.storages.RDBStorage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2])
)
"""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    database = f"sqlite:///{tmp_path}/study.db"
    process = subprocess.Popen([sys.executable, "-c", PROXY, database, str(port)])
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                open_storage(f"grpc://127.0.0.1:{port}").get_all_studies()
                break
            except Exception:  # noqa: BLE001 - gRPC's own, of many kinds
                assert process.poll() is None, "the proxy has ended"
                assert time.monotonic() < deadline, "the proxy does not answer"
                time.sleep(0.5)
        yield f"grpc://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_a_study_behind_a_proxy_is_searched_and_gone_on_with(proxy: str, sqlite_uri: str, tmp_path: Path) -> None:
    space = {"x": {"type": "float", "low": -1.0, "high": 1.0}}
    with tracking(sqlite_uri) as tracker:
        for trials in (3, 5):
            runner = OptunaRunner("squares", "minimize", "loss", storage=proxy, seed=1, tracker=tracker)
            found = runner.optimize(lambda trial, params: params["x"] ** 2, trials, space)
    assert found.counts.total == 5
    study = optuna.load_study(study_name="squares", storage=f"sqlite:///{tmp_path}/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5
    assert found.best_value == pytest.approx(study.best_value)
