"""`tailrace history`: every value of one metric, from MLflow and from what an ended program has left."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from helpers.commands import json_of, tailrace
from helpers.left_sessions import crash


@pytest.fixture(autouse=True)
def _here(quiet_mlflow: None) -> None:
    """These tests call commands."""


@pytest.fixture
def run_id(sqlite_uri: str) -> str:
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run("0", run_name="base").info.run_id
    values = [1.5, math.nan, math.inf, -math.inf, 0.1]
    client.log_batch(run_id, [Metric("loss", value, 1_700_000_000_000 + n, n) for n, value in enumerate(values)][::-1])
    return str(run_id)


def test_values_are_printed_by_step(sqlite_uri: str, run_id: str) -> None:
    lines = tailrace("history", "base", "loss", "--tracking-uri", sqlite_uri).stdout.splitlines()
    assert lines[0] == "STEP\tTIME\tVALUE"
    assert lines[1] == "0\t2023-11-14T22:13:20.000+00:00\t1.5"
    assert [line.split("\t")[2] for line in lines[2:]] == ["nan", "inf", "-inf", "0.1"]


def test_json_is_one_object_with_what_json_lacks_as_text(sqlite_uri: str, run_id: str) -> None:
    found = json_of(tailrace("history", run_id[:8], "loss", "--json", "--tracking-uri", sqlite_uri))
    assert (found["run_id"], found["run_name"], found["key"]) == (run_id, "base", "loss")
    assert found["points"][0] == [0, 1_700_000_000_000, 1.5]
    assert [value for _, _, value in found["points"]] == [1.5, "NaN", "Infinity", "-Infinity", 0.1]


def test_what_a_crashed_program_has_left_is_there_too(sqlite_uri: str) -> None:
    crash(sqlite_uri)
    assert tailrace("sync").exit_code in (0, 1)
    found = json_of(tailrace("history", "crashed", "loss", "--json"))
    assert [step for step, _, _ in found["points"]] == list(range(300))


def test_a_key_that_it_does_not_have_is_an_error_with_the_nearest(sqlite_uri: str, run_id: str) -> None:
    result = tailrace("history", "base", "los", "--tracking-uri", sqlite_uri)
    assert result.exit_code == 4
    assert "did you mean 'loss'" in result.stderr
    assert tailrace("history", "nobody", "loss", "--tracking-uri", sqlite_uri).exit_code == 4


def test_history_logs_and_top_need_no_mlflow_for_a_plain_database(sqlite_uri: str) -> None:
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run("0", run_name="base").info.run_id
    client.log_metric(run_id, "loss", 0.5, step=3)
    client.log_text(run_id, "hello\n", "console.log")
    code = """
import sys
from tailrace_agent.cli import main
try:
    main()
finally:
    found = {"mlflow", "sqlalchemy", "requests"} & sys.modules.keys()
    print("imported:", found, file=sys.stderr)
"""
    for arguments, said in (
        (["history", "base", "loss"], "0.5"),
        (["logs", "base"], "hello"),
        (["top", "--once"], "loss"),
        (["runs"], "base"),
    ):
        command = [sys.executable, "-c", code, *arguments, "--tracking-uri", sqlite_uri]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert said in done.stdout, done.stderr
        assert "imported: set()" in done.stderr, arguments
