"""A real nginx before a real `mlflow server`: what it refuses, breaks, moves and packs costs no value."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from faults.oracle import MlflowDatabase, check, check_ledger, eventually
from faults.program import Program
from helpers.sdk_tools import Store, forget, named, script
from helpers.serving import free_port, serving
from services.backends import certificate
from services.nginx import nginx

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

_STEPS = 3000
_LARGE = 30_000_000
_TRAIN = f"""
    import os
    import tailrace as sdk

    with sdk.start_run(run_name=os.environ["RUN_NAME"], params={{"lr": 0.1}}, description="ä" * 5000) as run:
        for step in range({_STEPS}):
            sdk.log(step=step, loss=step / 3)
        sdk.set_tags({{"before": "x", "long": "ä" * 5000, "after": "y"}})
        sdk.log_text("some words", "words.txt")
        with open("large.bin", "wb") as file:
            file.truncate({_LARGE})
        sdk.log_artifact("large.bin")
        sdk.log_text("more words", "deep/er/words.txt")
        sdk.flush(timeout=float(os.environ.get("FLUSH_TIMEOUT", 60)))
"""


def test_through_a_prefix_and_with_packed_answers_a_run_arrives_as_without_a_proxy(
    mlflow_server: str, tmp_path: Path
) -> None:
    packed = ["gzip on;", "gzip_proxied any;", "gzip_min_length 0;", "gzip_types *;", "client_max_body_size 0;"]
    with nginx(tmp_path / "nginx", mlflow_server, *packed, prefix="/some/prefix") as url:
        done = script(tmp_path, _TRAIN, MLFLOW_TRACKING_URI=url, RUN_NAME="prefixed")
        access = (tmp_path / "nginx" / "access.log").read_text()
        through = named(url, "prefixed")
        assert through.artifacts() == ["deep/er/words.txt", "large.bin", "words.txt"]
    assert access.count(" 200 gzip") > 5
    assert f"look at {url}/#/experiments/" in done.stderr
    _arrived(named(mlflow_server, "prefixed"), dead=0)
    forget(tmp_path)


@pytest.mark.parametrize("lingering", ["on", "off"])
def test_what_is_too_large_for_a_proxy_goes_in_smaller_requests_or_is_a_dead_letter(
    lingering: str, mlflow_server: str, tmp_path: Path
) -> None:
    name = f"small requests, {lingering}"
    limits = ["client_max_body_size 8k;", f"lingering_close {lingering};"]  # off: the connection breaks in mid-upload
    with nginx(tmp_path / "nginx", mlflow_server, *limits) as url:
        done = script(tmp_path, _TRAIN, MLFLOW_TRACKING_URI=url, RUN_NAME=name)
        access = (tmp_path / "nginx" / "access.log").read_text()
    run = named(mlflow_server, name)
    assert run.artifacts() == ["deep/er/words.txt", "words.txt"]
    _arrived(run, dead=2)
    reason = f"{url} takes no request this large (413): raise the limit of the proxy before it"
    assert f"artifact 'large.bin' was refused: {reason}" in done.stderr
    assert f"MLflow refused tag 'long': {reason}" in done.stderr
    assert 250 <= len(run.tags["mlflow.note.content"]) < 5000  # or there would be no run
    batches = re.findall(r'log-batch HTTP/1.1" (\d+)', access)
    assert 3 <= batches.count("413") < batches.count("200") / 2
    forget(tmp_path)


def test_while_the_server_behind_a_gateway_is_down_all_waits_and_arrives_once_when_it_is_back(
    sqlite_template: Path, tmp_path: Path
) -> None:
    database, port = tmp_path / "mlflow.db", free_port()
    database.write_bytes(sqlite_template.read_bytes())
    arguments = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(tmp_path / "artifacts")]
    settings = {"retry_max_delay": 0.3, "end_timeout": 120}
    with nginx(tmp_path / "nginx", f"http://127.0.0.1:{port}") as url:
        with serving(tmp_path, *arguments, port=port):
            program = Program(tmp_path / "a", url, tmp_path / "state", steps=800, pause=0.02, settings=settings)
            store = MlflowDatabase(database)
            eventually(lambda: (run := store.run(program.run)) and store.count(run.run_id), 120, "points are there")
        with program:
            eventually(lambda: "MLflow cannot be reached" in program.log.read_text(), 120, "the outage is reported")
            with serving(tmp_path, *arguments, port=port):
                program.finish(120)
                run = store.settled(program.run, 120)
    rows = store.rows(run.run_id)
    check(program.journal.read(), rows)
    check_ledger(run, len(rows))
    assert run.status == "FINISHED"
    said = program.log.read_text()
    assert f"the gateway at {url} gets no sensible answer from the server behind it" in said
    assert "<" not in said
    assert "refused" not in said


@pytest.mark.parametrize(
    ("trusted", "said"),
    [
        ({"MLFLOW_TRACKING_SERVER_CERT_PATH": "{certificate}"}, None),
        ({"MLFLOW_TRACKING_INSECURE_TLS": "true"}, None),
        ({}, r"self-signed certificate.*\): set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of its authority"),
        ({"MLFLOW_TRACKING_SERVER_CERT_PATH": "/nowhere/ca.pem"}, r"/nowhere/ca.pem\): check MLFLOW_TRACKING_SERVER"),
    ],
)
def test_a_self_signed_certificate_is_trusted_where_that_is_said_and_else_all_waits_with_a_word_on_it(
    trusted: dict[str, str], said: str | None, mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path)
    name = f"tls {trusted}"
    environ = {"RUN_NAME": name} | ({} if said is None else {"TAILRACE_END_TIMEOUT": "2", "FLUSH_TIMEOUT": "5"})
    environ |= {key: value.format(certificate=pem) for key, value in trusted.items()}
    with nginx(tmp_path / "nginx", mlflow_server, "client_max_body_size 0;", certificate=pem) as url:
        done = script(tmp_path, _TRAIN, MLFLOW_TRACKING_URI=url, **environ)
        if said is not None:
            assert re.search(rf"no TLS connection to {url} \(.*{said}", done.stderr)


def _arrived(run: Store, dead: int) -> None:
    """Every step once, and a ledger that says so."""
    assert run.history("loss") == [(step, step / 3) for step in range(_STEPS)]
    assert run.params == {"lr": "0.1"}
    assert (run.tags["before"], run.tags["after"]) == ("x", "y")
    assert run.status == "FINISHED"
    ledger = json.loads(run.tags["tailrace.ledger"])
    assert (ledger["dead"], ledger["pending"], ledger["dropped"]) == (dead, 0, {})
    assert ledger["kinds"]["metric"]["delivered"] == _STEPS
    assert ledger["accepted"] == ledger["delivered"] + dead == _STEPS + 7
