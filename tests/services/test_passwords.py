"""Stores that ask for a password: a wrong one loses nothing, and none is ever on a disk, in MLflow or on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from helpers.sdk_tools import forget, named, script
from services.backends import Backend
from tailrace_agent.cli import main

pytestmark = [pytest.mark.services, pytest.mark.parametrize("backend", ["auth", "postgresql", "mysql"], indirect=True)]

_TRAIN = """
    import logging
    import tailrace as sdk

    class Said(logging.Handler):
        def emit(self, record):
            print(record.getMessage())
            said.append(record.getMessage())

    said = []
    logging.getLogger("tailrace").addHandler(Said())
    with sdk.start_run(run_name="locked out", params={"lr": 0.1}) as run:
        print(run, sdk.get_tracking_uri())
        for step in range(300):
            sdk.log(step=step, loss=1 / (step + 1))
        sdk.log_text("some words", "words.txt")
        while not (sdk.flush(timeout=1).settled or any("Nothing is lost" in line for line in said)):
            pass
        print(run, run.ledger())
"""


@pytest.fixture(autouse=True)
def _ring_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in shared memory shall be of this test alone, so that it can be searched."""
    (tmp_path / "shm").mkdir()
    monkeypatch.setenv("TAILRACE_RING_DIR", str(tmp_path / "shm"))
    monkeypatch.setenv("TAILRACE_LOG_LEVEL", "debug")
    monkeypatch.setenv("TAILRACE_METADATA", "true")  # what a run says of its environment must not tell either


def test_a_wrong_password_loses_nothing_and_sync_delivers_with_the_right_one(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as wrong:
        for name, value in backend.wrong.items():
            wrong.setenv(name, value)
        done = script(tmp_path, _TRAIN, TAILRACE_END_TIMEOUT="0.5")
        locked_out = _tailrace("status")
    assert "asks for other credentials" in done.stdout
    assert "Nothing is lost" in done.stdout
    assert "302 " in locked_out.output
    assert "asks for other credentials" in " ".join(locked_out.output.split())
    _nothing_tells(backend, tmp_path, done.stdout, done.stderr, locked_out.output)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", backend.uri)
    synced = _tailrace("sync")
    assert synced.exit_code == 0, synced.output
    assert "302 entries delivered, nothing is left" in synced.output
    verified = _tailrace("verify", "locked out")
    assert (verified.exit_code, "equal" in verified.output) == (0, True), verified.output
    run = named(backend.uri, "locked out")
    assert run.status == "FINISHED"
    assert "words.txt" in run.artifacts()
    kept = Path(run.client.download_artifacts(run.run_id, "", str(tmp_path)))
    assert (kept / "words.txt").read_text() == "some words"  # searched with all the other files
    _nothing_tells(backend, tmp_path, synced.output, verified.output, str(run.tags), str(run.params))
    run.client.delete_run(run.run_id)  # its name is looked up again


def test_the_right_password_reaches_the_agent_and_leaves_no_trace(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", backend.uri)
    done = script(tmp_path, _TRAIN.replace("locked out", "let in"))
    run = named(backend.uri, "let in")
    assert run.history("loss") == [(step, 1 / (step + 1)) for step in range(300)]
    assert run.status == "FINISHED"
    _nothing_tells(backend, tmp_path, done.stdout, done.stderr, str(run.tags), _tailrace("status", "--all").output)
    forget(tmp_path)


def _tailrace(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def _nothing_tells(backend: Backend, directory: Path, *texts: str) -> None:
    """No password is in the texts, nor in any file of the session: spool, logs, rings, status."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "train.py"]
    assert {"session.json", "agent.log", "spool.db"} <= {path.name for path in files}
    for secret in backend.secrets:
        assert [text for text in texts if secret in text] == []
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
