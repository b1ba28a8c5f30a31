"""The command line, on real sessions, real stores and real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from helpers.sdk_tools import command_line, lay_traps
from tailrace_agent.cli import _COMMANDS, main
from tailrace_agent.ipc import status
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus, RunStatus
from tailrace_agent.ledger import Counts, Ledger
from tailrace_agent.mlflow.links import ui_address
from tailrace_agent.settings.sources import load_settings

# Logs 300 steps and is killed, with nobody there who would deliver any of it: as after a crash of trainer and agent.
_CRASH = """
import os, sys
import tailrace as sdk
from tailrace._session.agent_keeper import Keeper
Keeper.start = lambda self: None
sdk.start_run(run_name=sys.argv[2], tracking_uri=sys.argv[1], quiet=True)
sdk.log_params({"lr": 0.1})
for step in range(300):
    sdk.log({"loss": 1 / (step + 1), "f1!": 0.5} if step == 7 else {"loss": 1 / (step + 1)}, step=step)
os.kill(os.getpid(), 9)
"""
_CLOSED = "http://127.0.0.1:9"
Tailrace = Callable[..., Result]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_PYTHON_REFRESH", "OMP_NUM_THREADS"):  # set by the commands, for their own process
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    # What `clean` finds in shared memory should be of this test alone.
    (tmp_path / "shm").mkdir()
    monkeypatch.setenv("TAILRACE_RING_DIR", str(tmp_path / "shm"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tailrace() -> Tailrace:
    """Runs a command in this process; what it raises unexpectedly is raised."""

    def run(*arguments: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, list(arguments), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def crash(uri: str, name: str = "crashed") -> Session:
    """Runs a program that logs and is killed; its session."""
    done = subprocess.run([sys.executable, "-c", _CRASH, uri, name], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    return max(Session.all(load_settings()), key=lambda session: session.info.created)  # two may be of one second


def json_of(result: Result) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def test_help_names_every_command_and_exit_code_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tailrace_agent.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'rich', 'mlflow', 'msgspec', 'sqlalchemy', 'psutil', 'structlog'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    for word in (*_COMMANDS, "Exit codes", "130"):
        assert word in done.stdout
    assert re.search(r"(?m)^  tailrace status +what goes on here$", done.stdout)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_help_of_its_own(name: str, tailrace: Tailrace) -> None:
    result = tailrace(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")
    assert "\\b" not in result.output


def test_a_mistyped_command_is_a_usage_error_that_knows_what_was_meant(tailrace: Tailrace) -> None:
    result = tailrace("stauts")
    assert result.exit_code == 2
    assert "did you mean `tailrace status`?" in result.stderr


def test_a_wrong_setting_is_one_line_that_names_it(tailrace: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_NICE", "99")
    result = tailrace("status")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "TAILRACE_NICE" in result.stderr


def test_nothing_logged_is_nothing_wrong(tailrace: Tailrace) -> None:
    assert tailrace("status").exit_code == 0
    assert "no sessions here" in tailrace("status").output
    assert "nothing is left over" in tailrace("sync").output
    assert "no dead letters" in tailrace("dead", "list").output
    assert "nothing to delete" in tailrace("clean").output
    assert tailrace("sync", "nosuch").exit_code == 4


def test_what_a_crash_left_is_seen_delivered_verified_and_mended(tailrace: Tailrace, sqlite_uri: str) -> None:
    session = crash(sqlite_uri)
    seen = tailrace("status")
    assert seen.exit_code == 1
    assert "leftover" in seen.output
    assert "in ring" in seen.output

    synced = tailrace("sync")
    assert synced.exit_code == 0, synced.output
    assert "nothing is left" in synced.stderr
    after = json_of(tailrace("status", "--json"))["sessions"][0]
    assert (after["state"], after["runs"][0]["state"]) == ("finished", "KILLED")
    assert (after["runs"][0]["delivered"], after["runs"][0]["dead"], after["runs"][0]["pending"]) == (301, 1, 0)

    verified = tailrace("verify", "crashed")
    assert verified.exit_code == 0, verified.output
    assert "equal. 300 points delivered, 300 in MLflow" in verified.output

    dead = tailrace("dead", "list", "--json")
    assert dead.exit_code == 1
    (letter,) = json_of(dead)["dead_letters"]
    assert (letter["key"], letter["value"]) == ("f1!", "0.5 at step 7")
    assert "Invalid value" in letter["reason"]

    assert tailrace("dead", "retry", letter["id"]).exit_code == 1  # as it is, it is refused again
    assert tailrace("dead", "retry", "--all", "--rename", "nosuch=x").exit_code == 4
    retried = tailrace("dead", "retry", "--all", "--rename", "f1!=f1")
    assert retried.exit_code == 0, retried.output
    assert tailrace("dead", "list").exit_code == 0
    with closing(sqlite3.connect(sqlite_uri.removeprefix("sqlite:///"))) as db:
        assert db.execute("SELECT step, value FROM metrics WHERE key = 'f1'").fetchall() == [(7, 0.5)]
        db.execute("DELETE FROM metrics WHERE key = 'loss' AND step = 9")
        db.commit()

    differs = tailrace("verify", after["runs"][0]["run"][:6], "--json")
    assert differs.exit_code == 1
    assert json_of(differs)["differing"] == {"loss": [300, 299]}
    assert "DIFFERENT" in tailrace("verify", "crashed").output

    shutil.rmtree(session.dir)  # another machine, or a month later: only the tag of the run is left
    by_tag = tailrace("verify", after["runs"][0]["run_id"], "--tracking-uri", sqlite_uri)
    assert by_tag.exit_code == 1
    assert "all metrics together" in by_tag.output
    assert tailrace("verify", "nosuch", "--tracking-uri", sqlite_uri).exit_code == 4


_ARTIFACTS = """
import os, sys
import tailrace as sdk
from tailrace._session.agent_keeper import Keeper
from tailrace._background.lane import drain
Keeper.start = lambda self: None
sdk.start_run(run_name="files", tracking_uri=sys.argv[1], quiet=True)
for name in ("a", "a/b.txt", "c.txt"):
    sdk.log_text(name, name)
for step in range(5):
    sdk.log({"f1!": step}, step=step)
drain(30)
os.kill(os.getpid(), 9)
"""


def test_artifacts_that_cannot_be_stored_are_listed_renamed_and_dropped_the_waiting_ones_too(
    tailrace: Tailrace, sqlite_uri: str
) -> None:
    done = subprocess.run([sys.executable, "-c", _ARTIFACTS, sqlite_uri], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert tailrace("sync").exit_code == 0
    letters = json_of(tailrace("dead", "list", "--json", "--key", "a/b.txt"))["dead_letters"]
    assert [(letter["kind"], letter["pending"]) for letter in letters] == [("artifact", False)]
    assert "a" in letters[0]["reason"]
    listed = tailrace("dead", "list").stdout.splitlines()
    assert sum("f1!" in line for line in listed) == 2, "five of the same are one line, and one with the reason"
    assert any("f1!" in line and " 5 " in line for line in listed)

    assert tailrace("dead", "retry", letters[0]["id"], "--rename", "a/b.txt=../x").exit_code == 2
    retried = tailrace("dead", "retry", "--key", "a/b.txt", "--rename", "a/b.txt=b/b.txt")
    assert "f1!" not in retried.output
    assert [x["key"] for x in json_of(tailrace("dead", "list", "--json"))["dead_letters"]] == ["f1!"] * 5
    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    assert {name: (root / name).read_text() for name in ("a", "b/b.txt", "c.txt")} == {
        "a": "a", "b/b.txt": "a/b.txt", "c.txt": "c.txt"
    }  # fmt: skip


def test_an_artifact_that_waits_can_be_listed_and_dropped(tailrace: Tailrace) -> None:
    subprocess.run([sys.executable, "-c", _ARTIFACTS, "http://127.0.0.1:9"], timeout=60, check=False)
    assert tailrace("sync", "--timeout", "2").exit_code == 3
    assert tailrace("dead", "list").exit_code == 0, "nothing has failed by itself"
    waiting = json_of(tailrace("dead", "list", "--pending", "--json"))["dead_letters"]
    assert [(letter["key"], letter["pending"]) for letter in waiting] == [(x, True) for x in ("a", "a/b.txt", "c.txt")]
    assert ":p" in waiting[0]["id"]
    dropped = tailrace("dead", "drop", waiting[1]["id"], "--yes")
    assert "1 entry dropped" in dropped.output
    view = json_of(tailrace("status", "--json"))["sessions"][0]["runs"][0]
    assert (view["pending"], view["dropped"]) == (7, {"discarded by the user": 1})


def test_a_refused_store_is_named_and_the_run_can_be_sent_elsewhere(tailrace: Tailrace, sqlite_uri: str) -> None:
    crash("./plain-files")
    refused = tailrace("sync")
    assert refused.exit_code == 3
    assert "MLFLOW_ALLOW_FILE_STORE" in refused.stderr
    assert "--tracking-uri URI" in refused.stderr
    assert "MLFLOW_ALLOW_FILE_STORE" in tailrace("status").output
    assert tailrace("sync", "--tracking-uri", "host:5000").exit_code == 3  # checked before anything is changed

    moved = tailrace("sync", "--tracking-uri", sqlite_uri)
    assert moved.exit_code == 0, moved.output
    assert "begins anew" in moved.stderr
    assert tailrace("verify", "crashed").exit_code == 0


def test_a_store_that_is_away_ends_the_patience_with_an_exit_code_of_its_own(tailrace: Tailrace) -> None:
    session = crash(_CLOSED)
    result = tailrace("sync", session.id.rpartition("-")[2], "--timeout", "2", "--json")
    assert result.exit_code == 3
    (one,) = json_of(result)["sessions"]
    assert (one["outcome"], one["pending"]) == ("unreachable", 302)
    assert "is the server running" in one["reasons"][0]
    assert tailrace("verify", "crashed").exit_code == 1  # not in MLflow yet


def test_a_store_that_has_moved_goes_on_with_the_run_it_knows(
    tailrace: Tailrace, sqlite_uri: str, tmp_path: Path
) -> None:
    session = crash(sqlite_uri)
    assert tailrace("sync").exit_code == 0
    letters = json_of(tailrace("dead", "list", "--json"))["dead_letters"]
    database = Path(sqlite_uri.removeprefix("sqlite:///"))
    database.rename(tmp_path / "elsewhere.db")
    _put_back(session)
    moved = tailrace("sync", "--tracking-uri", f"sqlite:///{tmp_path}/elsewhere.db")
    assert moved.exit_code == 0, moved.output
    assert "goes on in" in moved.stderr
    assert tailrace("verify", letters[0]["run"]).exit_code == 0


def test_what_another_store_took_before_is_not_missed_in_the_new_one(
    tailrace: Tailrace, sqlite_uri: str, sqlite_template: Path, tmp_path: Path
) -> None:
    session = crash(sqlite_uri)
    assert tailrace("sync").exit_code == 0
    _put_back(session, rename={"f1!": "f1"})
    shutil.copyfile(sqlite_template, tmp_path / "second.db")
    moved = tailrace("sync", "--tracking-uri", "sqlite:///second.db")
    assert moved.exit_code == 0, moved.output
    assert "300 points stay where they were delivered" in moved.stderr
    verified = tailrace("verify", "crashed")
    assert verified.exit_code == 0, verified.output
    assert "1 point delivered, 1 in MLflow" in verified.output


def _put_back(session: Session, rename: dict[str, str] | None = None) -> None:
    """Makes a session a leftover again: its dead letters are on the way, and nobody delivers them."""
    from tailrace_agent.cli._letters import collect, put_back

    put_back(session, collect(load_settings(), None)[0], rename or {})


def test_a_live_session_is_shown_and_left_alone(tailrace: Tailrace) -> None:
    session = _live()
    lock = session.try_agent_lock()
    assert lock is not None
    try:
        (seen,) = json_of(tailrace("status", "--json"))["sessions"]
        assert (seen["state"], seen["agent_pid"]) == ("live", 1)
        assert (seen["runs"][0]["delivered"], seen["runs"][0]["pending"]) == (7, 3)
        assert "waiting for rain" in tailrace("status").output
        dropped = tailrace("dead", "drop", "--all", "--yes")
        assert dropped.exit_code == 5
        assert "is live" in dropped.stderr
        waited = tailrace("sync", session.id, "--timeout", "0.5", "--json")
        assert waited.exit_code == 3
        assert "waiting for rain" in waited.stdout
        assert "nothing to delete" in tailrace("clean", "--yes", "--discard-undelivered", "--older-than", "0").output
    finally:
        os.close(lock)


def test_waiting_for_a_live_agent_ends_when_it_has_delivered(tailrace: Tailrace) -> None:
    session = _live(pending=0)
    lock = session.try_agent_lock()
    assert lock is not None
    try:
        assert tailrace("sync", session.id).exit_code == 0
        assert "or on its way" in tailrace("sync").stdout
        # The last line of a CI job: its program has ended, and nothing may be on its way any more.
        waited = tailrace("sync", "--wait", "--timeout", "0.3")
        assert (waited.exit_code, session.id in waited.stderr + waited.stdout) == (1, True)
    finally:
        os.close(lock)
    (session.dir / "finished").touch()
    assert "all is delivered\n" in tailrace("sync", "--wait").stdout


@pytest.mark.parametrize("state", ["refused a moment ago", "damaged", "held up", "dead letters", "no directory"])
def test_what_status_calls_left_over_sync_delivers_or_explains_with_its_exit_code(
    tailrace: Tailrace, sqlite_uri: str, state: str
) -> None:
    lock = None
    if state == "held up":
        session = _live()
        lock = session.try_agent_lock()
    else:
        session = crash("./plain-files" if state == "refused a moment ago" else sqlite_uri)
    if state == "refused a moment ago":
        (session.dir / "refused").touch()
    elif state == "damaged":
        (session.dir / "spool.db").write_bytes(b"no database" * 1000)
    elif state == "dead letters":
        assert tailrace("sync").exit_code == 0
    elif state == "no directory":
        (session.dir / "agent.log").unlink(missing_ok=True)
        (session.dir / "agent.log").mkdir()
    assert tailrace("status").exit_code == 1
    synced = tailrace("sync", "--timeout", "20" if lock is None else "0.3")
    said = synced.stdout + synced.stderr
    assert session.id in said
    if synced.exit_code == 0:
        assert tailrace("dead", "drop", "--all", "--yes").exit_code in (0, 4)
        assert tailrace("status").exit_code == 0
    else:
        expected = {
            "refused a moment ago": (3, "MLFLOW_ALLOW_FILE_STORE"),
            "held up": (3, "waiting for rain"),
            "damaged": (1, "set aside"),
            "dead letters": (1, "1 dead letter (`tailrace dead list`)"),
            "no directory": (1, "agent.log"),
        }[state]
        assert (synced.exit_code, expected[1] in said) == (expected[0], True), said
    if lock is not None:
        os.close(lock)


def _live(pending: int = 3) -> Session:
    """A session as it looks while an agent (this test) holds it."""
    session = Session.create(load_settings(), cwd="/", program="train.py")
    ledger = Ledger(kinds={"metric": Counts(accepted=7 + pending, delivered=7)})
    run = RunStatus(run=42, run_name="r", ledger=ledger, problem="waiting for rain" if pending else None)
    status.write(session.shared / status.run_file(42), run)
    now = time.time()
    status.write(session.shared / "agent.status", AgentStatus(pid=1, host="thread", started=now, seen=now))
    return session


def test_a_session_of_another_host_is_left_alone_unless_forced(tailrace: Tailrace, sqlite_uri: str) -> None:
    session = crash(sqlite_uri)
    session.save(hostname="elsewhere")
    result = tailrace("sync", session.id)
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert "on elsewhere" in tailrace("status").output
    assert tailrace("sync", "--force").exit_code == 0


def test_clean_never_deletes_what_is_undelivered_unless_told_twice(tailrace: Tailrace, sqlite_uri: str) -> None:
    crash(sqlite_uri, "delivered")
    assert tailrace("sync").exit_code == 0
    assert tailrace("dead", "drop", "--all", stdin="n\n").exit_code == 1
    assert tailrace("dead", "drop", "--all", stdin="y\n").exit_code == 0
    left = crash(sqlite_uri, "left")
    assert "nothing to delete" in tailrace("clean").output  # too young
    dry = tailrace("clean", "--older-than", "0d", "--dry-run")
    assert "would delete" in dry.output
    assert "unread in its ring" in dry.output
    assert len(list(Session.all(load_settings()))) == 2
    assert tailrace("clean", "--older-than", "0d", "--yes").exit_code == 0
    assert [session.id for session in Session.all(load_settings())] == [left.id]
    assert tailrace("clean", "--discard-undelivered", stdin="n\n").exit_code == 1
    assert left.dir.exists()
    assert tailrace("clean", "--discard-undelivered", "--yes").exit_code == 0
    assert not left.dir.exists()
    assert not left.shared.exists()
    assert tailrace("clean", "--older-than", "soon").exit_code == 2


def test_the_doctor_finds_this_machine_well_and_creates_no_store(tailrace: Tailrace, tmp_path: Path) -> None:
    result = tailrace("doctor", "--json")
    checks = {check["name"]: check for check in json_of(result)["checks"]}
    assert result.exit_code == 0, result.output
    assert {"state directory", "shared memory", "locks", "agent", "mlflow", "store", "clock"} <= set(checks)
    assert checks["locks"]["result"] == "ok"
    assert not (tmp_path / "mlflow.db").exists()


def test_the_doctor_names_what_is_wrong_and_the_mend(tailrace: Tailrace, tmp_path: Path) -> None:
    away = tailrace("doctor", "--tracking-uri", _CLOSED)
    assert away.exit_code == 1
    assert "is the server running" in away.output
    (tmp_path / "file").touch()
    unwritable = tailrace("--dir", str(tmp_path / "file"), "doctor")
    assert unwritable.exit_code == 1
    assert "set TAILRACE_DIR" in unwritable.output


def test_ui_says_what_it_cannot_show(tailrace: Tailrace) -> None:
    server = tailrace("ui", "--tracking-uri", "https://ada:secret@mlflow.example/")
    assert (server.exit_code, server.stdout) == (0, "open https://mlflow.example in a browser\n")
    assert "tailrace: no links to runs: the host name in https://mlflow.example cannot be resolved" in server.stderr
    absent = tailrace("ui")
    assert absent.exit_code == 1
    assert "tailrace demo" in absent.stderr


def test_the_demo_trains_and_its_run_is_there_and_the_ui_shows_it_on_a_free_port(
    sqlite_uri: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert sqlite_uri == f"sqlite:///{tmp_path}/mlflow.db"  # MLflow's default here, spared the seconds of making it
    tailrace = command_line(tmp_path_factory.mktemp("installed"))
    sprung = lay_traps(tmp_path)
    demo = subprocess.run(
        [*tailrace, "demo", "--steps", "90"], capture_output=True, text=True, timeout=100, check=False
    )
    assert demo.returncode == 0, demo.stderr
    assert "nothing lost" in demo.stderr
    assert "log() cost" in demo.stderr
    assert "tailrace ui" in demo.stderr
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        counts = dict(db.execute("SELECT key, count(*) FROM metrics GROUP BY key").fetchall())
        ((status, name, run_id, experiment),) = db.execute("SELECT status, name, run_uuid, experiment_id FROM runs")
    assert status == "FINISHED"
    assert counts["loss"] == counts["batch_ms"] == 90
    assert counts["test/accuracy"] >= 2
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        ui = subprocess.Popen([*tailrace, "ui", "--port", str(port)], stdout=subprocess.PIPE, text=True)
        assert ui.stdout is not None
        try:
            lines = [ui.stdout.readline() for _ in range(4)]
            assert f"port {port} is busy" in lines[0]
            address = ui_address(sqlite_uri, load_settings())
            assert address is not None
            kind = "?workflowType=machine_learning"
            assert lines[2] == f"open {address}/#/experiments/{experiment}{kind} in a browser; Ctrl-C ends it\n"
            assert lines[3] == f"the newest run, {name}: {address}/#/experiments/{experiment}/runs/{run_id}{kind}\n"
            with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
                assert answer.status == 200
        finally:
            ui.send_signal(signal.SIGINT)
            rest, _ = ui.communicate(timeout=30)
    assert (ui.returncode, rest.strip()) == (0, "ended")
    assert ui_address(sqlite_uri, load_settings()) is None
    assert sprung() == [], "code in the working directory is not tailrace's to run"


def test_stored_runs_are_found_by_id_by_tag_and_by_name(sqlite_uri: str, tmp_path: Path) -> None:
    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.sinks.memory import MemorySink
    from tailrace_agent.sinks.mlflow import open_sink

    for sink in (MemorySink(), open_sink(sqlite_uri, str(tmp_path), request_timeout=10)):
        spec = RunSpec(run=0xABCDEF0123456789 >> 1, start_time=1, cwd="/", run_name="it's %_ me")
        ref = sink.open_run(spec, None, find_first=False)
        sink.open_run(msgspec.structs.replace(spec, run=5, run_name="other"), None, find_first=False)
        for text in (ref.run_id, ref.run_id[:9], "55e6f7", "it's %_ me"):
            (found,) = sink.find_runs(text)
            assert found.ref.run_id == ref.run_id
            assert found.status == "RUNNING"
        assert sink.find_runs("it's") == []
