"""When an agent leaves, and what it leaves behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.errors import StoreRefused, Unavailable
from tailrace_agent.hosts.abandoned_sessions import is_abandoned
from tailrace_agent.hosts.process import _Agent, open_sink
from tailrace_agent.ipc.finished import finished
from tailrace_agent.ipc.records import End, RunSpec, Start, encode
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.sinks.memory import MemorySink


def test_an_agent_whose_shared_directory_is_gone_leaves_and_does_not_call_the_session_finished(
    session: Session,
) -> None:
    shutil.rmtree(session.shared)
    pipeline = Pipeline.open(session, lambda *_, **__: MemorySink(), KeptLog())
    agent = _Agent(pipeline, KeptLog(), None)
    pipeline.drain(0.0)
    assert agent.may_leave(0.0)
    agent.finish()
    assert not (session.dir / "finished").exists()
    assert not (session.dir / "refused").exists()
    assert not session.shared.exists()
    assert is_abandoned(Session.open(session.dir))


class LeavingRig:
    """An agent of a session, whose store is in memory and may be away."""

    def __init__(self, session: Session) -> None:
        self.session, self.log, self.now, self.sink = session, KeptLog(), 1000.0, MemorySink()
        self.store_error: Exception | None = None
        self.pipeline = Pipeline.open(session, self._open, self.log, monotonic=lambda: self.now)
        self.agent = _Agent(self.pipeline, self.log, None)

    def _open(self, *_: object, **__: object) -> MemorySink:
        if self.store_error is not None:
            raise self.store_error
        return self.sink

    def log_and_die(self) -> None:
        """A program comes, logs, ends its run, and goes."""
        ring = self.session.new_ring()
        for record in (Start(RunSpec(run=1, start_time=1, cwd="/")), (1, 0, 5, {"a": 1.0}), End(1, "FINISHED", 9)):
            ring.put(encode(record))
        (self.session.shared / f"{ring.path.stem}.owner").unlink()  # its process is gone

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.pipeline.drain(self.now)
            for destination in self.pipeline.by_uri.values():
                self.pipeline.deliver(destination, self.now)


@pytest.fixture
def leaving(session: Session) -> LeavingRig:
    return LeavingRig(session)


def test_an_agent_stays_while_a_program_is_there_and_leaves_when_all_is_delivered(leaving: LeavingRig) -> None:
    leaving.log_and_die()
    assert not leaving.agent.may_leave(leaving.now)
    leaving.run(30)
    assert leaving.agent.may_leave(leaving.now)
    assert leaving.session.closed  # who comes now begins another one
    leaving.agent.finish()
    last = finished(leaving.session)
    assert last is not None
    assert (last.runs, last.dead) == (1, 0)
    assert not leaving.session.has_shared


def test_an_agent_whose_store_is_away_waits_for_a_while_and_leaves_the_rest(leaving: LeavingRig) -> None:
    leaving.store_error = Unavailable("away")
    leaving.log_and_die()
    leaving.run(10)
    linger = leaving.session.info.settings.linger
    assert not leaving.agent.may_leave(leaving.now)
    assert not leaving.agent.may_leave(leaving.now + linger)
    assert leaving.agent.may_leave(leaving.now + linger + 1)
    leaving.agent.finish()
    assert finished(leaving.session) is None
    assert not (leaving.session.dir / "refused").exists()
    assert is_abandoned(leaving.session)


def test_an_agent_whose_store_was_refused_leaves_at_once_and_says_so_to_those_who_come_after_it(
    leaving: LeavingRig,
) -> None:
    leaving.store_error = StoreRefused("no such store")
    leaving.log_and_die()
    leaving.run(10)
    assert leaving.agent.may_leave(leaving.now)
    leaving.agent.finish()
    assert (leaving.session.dir / "refused").exists()
    assert not is_abandoned(leaving.session)


def test_a_program_that_comes_back_has_the_agent_wait_anew(leaving: LeavingRig) -> None:
    leaving.store_error = Unavailable("away")
    leaving.log_and_die()
    leaving.run(10)
    linger = leaving.session.info.settings.linger
    assert not leaving.agent.may_leave(leaving.now)
    ring = leaving.session.new_ring()
    assert not leaving.agent.may_leave(leaving.now + linger + 1)
    leaving.session.remove_ring(ring.path.stem)
    assert not leaving.agent.may_leave(leaving.now + linger + 2)


def test_a_session_that_was_deleted_by_hand_is_left_at_once_and_not_made_again(leaving: LeavingRig) -> None:
    leaving.log_and_die()
    leaving.store_error = Unavailable("away")
    leaving.run(10)
    shutil.rmtree(leaving.session.dir)
    assert leaving.agent.may_leave(leaving.now)
    leaving.agent.finish()
    assert not leaving.session.dir.exists()
    assert not leaving.session.has_shared


def test_a_session_without_runs_leaves_nothing(leaving: LeavingRig) -> None:
    leaving.run(1)
    assert leaving.agent.may_leave(leaving.now)
    leaving.agent.finish()
    assert not leaving.session.dir.exists()


def test_a_working_directory_that_was_deleted_is_a_reason_that_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(Unavailable, match="working directory was deleted"):
        open_sink(None, str(gone), request_timeout=1.0)


@pytest.mark.slow
def test_an_agent_that_sends_to_a_plain_server_does_not_load_mlflow(
    mlflow_server: str, experiment: str, tmp_path: Path
) -> None:
    code = """
import os
import sys
import psutil
import tailrace
tailrace.start_run(experiment_name=sys.argv[1])
tailrace.log(loss=1.0)
assert tailrace.flush(60)
assert psutil.Process().children() == []
state = os.environ["TAILRACE_DIR"]
agent, = [each for each in psutil.process_iter(["cmdline"]) if state in " ".join(each.info["cmdline"] or ())]
libraries = {mapped.path for mapped in agent.memory_maps()}
print(any("msgspec" in path for path in libraries), any("protobuf" in path or "_upb" in path for path in libraries))
tailrace.end_run()
"""
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TAILRACE_DIR": str(tmp_path / "state"),
        "MLFLOW_TRACKING_URI": mlflow_server,
    }
    command = [sys.executable, "-c", code, experiment]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=100)
    assert done.stdout.split() == ["True", "False"], done.stderr
