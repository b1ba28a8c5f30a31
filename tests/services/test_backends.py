"""Every store that tailrace writes to, with the same few runs: whole, killed, locked out.

The stores that need nothing but this machine's Python are in the default suite, the others run with `-m services`.
"""

from __future__ import annotations

import math
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from faults.oracle import Row, StoredRun, check, check_ledger, eventually, same
from faults.program import Program
from helpers.sdk_tools import Store, tracking
from services.backends import S3, Backend
from tailrace import Run
from tailrace._runs.run_part import core_of

_PLAIN = ["file", "sqlite", "http"]
_SERVED = ["auth", "postgresql", "http_postgresql", "mysql", "s3"]
_SERVICES = pytest.mark.services

everywhere = pytest.mark.parametrize(
    "backend", [*_PLAIN, *(pytest.param(n, marks=_SERVICES) for n in _SERVED)], indirect=True
)

_ODD = [math.nan, math.inf, -math.inf, -0.0, 1e-310, sys.float_info.max]
_STEPS = 700


@everywhere
def test_a_run_comes_back_from_the_store_as_it_was_logged(backend: Backend, tmp_path: Path) -> None:
    with (
        tracking(backend.uri, experiment_name=backend.experiment("whole")) as tracker,
        tracker.start_run(run_name="parent", params={"lr": 0.1}, tags={"kind": "whole"}) as run,
    ):
        _log(run, tmp_path)
        with tracker.start_run(run_name="child", nested=True) as child:
            child.log(score=1.0)
        assert run.flush(30).settled
        ledger = run.ledger()
    stored, inner = Store(backend.uri, run), Store(backend.uri, child)
    assert (stored.status, inner.status) == ("FINISHED", "FINISHED")
    assert stored.params == {"lr": "0.1", "long": "ä" * 5000, "optimizer": "adam"}
    assert stored.tags["kind"] == "whole"
    assert stored.tags["note"] == "größer 🚂"
    assert inner.tags["mlflow.parentRunId"] == run.run_id
    assert inner.metrics() == {"score": [(0, 1.0)]}
    history = stored.metrics()
    assert history["loss"] == [(step, step / 3) for step in range(_STEPS)]
    assert [step for step, _ in history["odd"]] == list(range(len(_ODD)))
    for (_, value), logged in zip(history["odd"], _ODD, strict=True):
        assert same(value, logged) or value == logged  # the file store keeps an infinity
    assert stored.artifacts() == ["model/a.bin", "model/deep/b.txt", "notes/notes.txt", "words.txt"]
    downloaded = Path(stored.client.download_artifacts(run.run_id, "", str(tmp_path)))
    assert (downloaded / "model" / "a.bin").read_bytes() == bytes(range(256)) * 1000
    assert (downloaded / "words.txt").read_text() == "some words"
    assert (ledger.dead, ledger.pending) == (0, 0)
    if backend.bucket is not None:
        assert len([key for key in backend.bucket.paths() if run.run_id in key]) == 4


@_SERVICES
@pytest.mark.parametrize("backend", ["file", "auth", "postgresql", "http_postgresql", "mysql"], indirect=True)
def test_an_agent_killed_between_the_answer_and_its_note_of_it_loses_nothing_and_doubles_nothing(
    backend: Backend, tmp_path: Path
) -> None:
    experiment = backend.experiment("killed")
    with Program(tmp_path / "a", backend.uri, tmp_path / "state", pause=0.005, experiment=experiment) as program:
        eventually(lambda: _find(backend, program.run), 60, "the run is there")
        fell = program.kill_agent("ack", hold=True, timeout=60)
        assert "ack" in fell
        program.finish()
        run = eventually(lambda: _find(backend, program.run, settled=True), 60, "the run is settled")
        noted = program.journal.read()
    rows = _rows(backend, run.run_id)
    once = list({str(row): row for row in rows}.values())  # by their words, since NaN is not equal to itself
    check(noted, once if backend.appends_blindly else rows)
    check_ledger(run, len(once))
    assert (len(rows) > len(once)) is backend.appends_blindly
    assert run.status == "FINISHED"


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_database_that_another_program_has_locked_is_waited_for_and_nothing_is_lost(backend: Backend) -> None:
    database = backend.uri.removeprefix("sqlite:///")
    with (
        closing(sqlite3.connect(database, isolation_level=None)) as other,
        tracking(backend.uri, request_timeout=0.2, retry_max_delay=0.2) as tracker,
        tracker.start_run() as run,
    ):
        assert run.flush(30).settled
        other.execute("BEGIN EXCLUSIVE")
        for step in range(500):
            run.log(step=step, loss=step / 3)
        run.log_params({"lr": 0.1})
        eventually(lambda: "locked" in _problem(run), 30, "the lock is noticed")
        assert run.ledger().pending == 501
        other.execute("ROLLBACK")
        assert run.flush(30).settled
        ledger = run.ledger()
    stored = Store(backend.uri, run)
    assert stored.history("loss") == [(step, step / 3) for step in range(500)]
    assert stored.params == {"lr": "0.1"}
    assert (ledger.dead, ledger.dropped) == (0, {})


@_SERVICES
@pytest.mark.parametrize("backend", ["postgresql", "http_postgresql", "mysql"], indirect=True)
def test_a_database_server_that_crashes_in_mid_run_gets_everything_once_when_it_is_back(
    backend: Backend, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("mysql_server" if backend.uri.startswith("mysql") else "postgresql_server")
    with tracking(backend.uri, request_timeout=5, retry_max_delay=0.3) as tracker, tracker.start_run() as run:
        for step in range(1000):
            run.log(step=step, loss=step / 3)
            if step == 200:
                assert run.flush(30).settled
            if step == 500:
                server.stop()
        try:
            eventually(lambda: _problem(run), 30, "it is missed")
        finally:
            server.start()
        assert run.flush(60).settled
        ledger = run.ledger()
    stored = Store(backend.uri, run)
    assert stored.history("loss") == [(step, step / 3) for step in range(1000)]
    assert stored.status == "FINISHED"
    assert (ledger.dead, ledger.dropped) == (0, {})


@_SERVICES
@pytest.mark.parametrize("backend", ["postgresql", "http_postgresql"], indirect=True)
def test_what_postgresql_cannot_hold_is_a_dead_letter_and_its_neighbours_arrive(backend: Backend) -> None:
    with tracking(backend.uri) as tracker, tracker.start_run() as run:
        run.log_params({"before": 1, "nul": "a\0b", "after": 2})
        run.set_tags({"kind": "x", "nul": "a\0b"})
        run.log(step=1, loss=0.5)
        run.log(step=2**62, loss=0.25)
        assert run.flush(60).settled
        ledger = run.ledger()
    stored = Store(backend.uri, run)
    assert stored.params == {"before": "1", "after": "2"}
    assert stored.tags["kind"] == "x"
    assert stored.history("loss") == [(1, 0.5), (2**62, 0.25)]
    assert {kind: ledger.of(kind).dead for kind in ("param", "tag", "metric")} == {"param": 1, "tag": 1, "metric": 0}


@_SERVICES
@pytest.mark.parametrize("backend", ["mysql"], indirect=True)
def test_a_key_that_mysql_takes_for_another_one_is_a_dead_letter_and_its_neighbours_arrive(backend: Backend) -> None:
    with tracking(backend.uri) as tracker, tracker.start_run() as run:
        run.log(step=1, loss=0.5, Loss=0.5, accuracy=0.5)
        assert run.flush(60).settled
        for step in range(2, 5000):
            run.log(step=step, loss=0.25)
        run.log(step=9, Loss=0.125)
        assert run.flush(60).settled
        ledger = run.ledger()
    stored = Store(backend.uri, run).metrics()
    (kept,) = {"loss", "Loss"} & {*stored}
    assert kept == "loss"
    assert stored["loss"] == [(1, 0.5), *((step, 0.25) for step in range(2, 5000))]
    assert stored["accuracy"] == [(1, 0.5)]
    assert (ledger.of("metric").dead, ledger.dropped) == (2, {})


@_SERVICES
def test_artifacts_wait_for_their_bucket_while_metrics_arrive_and_the_server_is_not_blamed(
    mlflow_server: str, s3: S3, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    experiment = Backend(mlflow_server, artifacts="s3://later/runs").experiment("later")
    with (
        tracking(mlflow_server, experiment_name=experiment, retry_max_delay=0.3) as tracker,
        tracker.start_run() as run,
    ):
        run.log_text("some words", "words.txt")
        eventually(lambda: not run.flush(0).settled and "cannot be uploaded" in caplog.text, 30, "it is said")
        run.log(loss=0.5)
        eventually(lambda: run.ledger().of("metric").delivered == 1, 30, "metrics arrive")
        assert run.ledger().of("artifact").pending == 1
        said = [text for text in caplog.messages if "cannot be uploaded" in text]
        s3.create("later")
        assert run.flush(30).settled
    # The check is there if the first upload has failed once more than the store needed.
    arrived = {*s3.paths("later")} - {f"runs/{run.run_id}/artifacts/tailrace/upload-check.txt"}
    assert arrived == {f"runs/{run.run_id}/artifacts/words.txt"}
    assert "NoSuchBucket" in said[0]
    assert mlflow_server not in said[0]


def _problem(run: Run) -> str:
    status = core_of(run).status()
    return (status.problem if status is not None else None) or ""


def _find(backend: Backend, tailrace_id: str, *, settled: bool = False) -> StoredRun | None:
    """The run that carries tailrace's id; with `settled` only once its last ledger is stored with it."""
    client = MlflowClient(backend.uri)
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(everywhere, f"tags.`tailrace.run` = '{tailrace_id}'")
    assert len(found) <= 1, "more than one run for one start_run"
    if not found:
        return None
    (run,) = found
    stored = StoredRun(run.info.run_id, run.info.status, False, run.info.end_time, run.data.tags, run.data.params)
    if settled and (stored.status == "RUNNING" or "tailrace.ledger" not in stored.tags or stored.ledger["pending"]):
        return None
    return stored


def _rows(backend: Backend, run_id: str) -> list[Row]:
    """All metrics; the file store's infinities as the others keep them."""
    client, most = MlflowClient(backend.uri), sys.float_info.max
    return [
        Row(
            point.key,
            point.step,
            math.copysign(most, point.value) if math.isinf(point.value) else point.value,
            point.timestamp,
        )
        for key in client.get_run(run_id).data.metrics
        for point in client.get_metric_history(run_id, key)
    ]


def _log(run: Run, directory: Path) -> None:
    for step in range(_STEPS):
        run.log(step=step, loss=step / 3)
    for step, value in enumerate(_ODD):
        run.log(step=step, odd=value)
    run.log_params({"optimizer": "adam", "long": "ä" * 5000})
    run.set_tags({"note": "größer 🚂"})
    model = directory / "model"
    (model / "deep").mkdir(parents=True)
    (model / "a.bin").write_bytes(bytes(range(256)) * 1000)
    (model / "deep" / "b.txt").write_text("b")
    (directory / "notes.txt").write_text("notes")
    run.log_artifacts(model, "model")
    run.log_artifact(directory / "notes.txt", "notes")
    run.log_text("some words", "words.txt")
