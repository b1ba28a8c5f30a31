"""An agent is started once, by whoever finds that there is none, and gets what it needs unseen."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from helpers.descriptors import open_descriptors
from helpers.forks import ForkedChild
from helpers.sdk_tools import eventually
from helpers.sessions import LAST_WORDS
from tailrace_agent.hosts import spawn as spawn_module
from tailrace_agent.hosts.spawn import Agent, request_exit, spawn_agent
from tailrace_agent.ipc import session as session_module
from tailrace_agent.ipc import status
from tailrace_agent.ipc.session import Session
from tailrace_agent.runtime import detached


def _the_process_of(agent: Agent) -> psutil.Process:
    """The agent's process, once it runs what it is to run."""

    def look() -> psutil.Process | None:
        for pid in psutil.pids():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process = psutil.Process(pid)  # anew: what it executes is another program once the shell has become it
                if os.getpgid(pid) == agent.group and process.exe() == os.path.realpath(sys.executable):
                    return process
        return None

    return eventually(look)


# -- rings -------------------------------------------------------------------------------------------------------------


def test_a_process_that_only_has_an_agents_id_is_not_told_to_leave(session: Session) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        said = status.AgentStatus(pid=other.pid, host="process", started=0, seen=0)
        status.write(session.shared / "agent.status", said)
        assert not request_exit(session)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.1)
        other.kill()


# -- who lives ---------------------------------------------------------------------------------------------------------


def test_an_agent_is_started_once_and_inherits_the_lock(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn_module, "_BOOT", LAST_WORDS.replace("sys.stdin.read()", "time.sleep(60)"))
    agent = spawn_agent(session, {"http://x": "user:secret"})
    assert agent is not None
    try:
        assert session.agent_alive()
        assert spawn_agent(session, {}) is None
        process = _the_process_of(agent)
        assert os.getsid(process.pid) == agent.group != os.getsid(0)  # Ctrl-C in the terminal does not reach it
        assert "secret" not in " ".join(process.cmdline())
        assert stat.S_IMODE((session.dir / "agent.err").stat().st_mode) == 0o600
    finally:
        agent.kill()
    eventually(lambda: not session.agent_alive())
    assert "secret" not in "".join(p.read_text() for p in session.dir.iterdir() if p.is_file())


@pytest.mark.parametrize("when", ["opened", "locked", "started"])
def test_a_child_forked_while_an_agent_starts_holds_no_lock(
    session: Session, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(spawn_module, "_BOOT", LAST_WORDS.replace("sys.stdin.read()", "time.sleep(60)"))
    children: list[ForkedChild] = []
    target, name = {
        "opened": (session_module, "open_own"),
        "locked": (Session, "try_agent_lock"),
        "started": (spawn_module, "_start"),
    }[when]
    real: Callable[..., Any] = getattr(target, name)

    def forking(*args: Any) -> Any:
        result = real(*args)
        children.append(ForkedChild())
        return result

    with monkeypatch.context() as patch:
        patch.setattr(target, name, forking)
        agent = spawn_agent(session, {})
    assert agent is not None
    assert session.agent_alive()
    agent.kill()
    eventually(lambda: not session.agent_alive())
    for child in children:
        child.end()


@pytest.mark.parametrize("shell", [True, False], ids=["by a shell", "by a Python"])
def test_an_agent_is_nobodys_child(session: Session, monkeypatch: pytest.MonkeyPatch, shell: bool) -> None:
    monkeypatch.setattr(spawn_module, "_BOOT", LAST_WORDS.replace("sys.stdin.read()", "time.sleep(60)"))
    if not shell:
        monkeypatch.setattr(detached, "_SHELL", "/nowhere/sh")
    agent = spawn_agent(session, {})
    assert agent is not None
    try:
        process = _the_process_of(agent)
        assert process.ppid() != os.getpid()
        assert agent.group not in psutil.pids(), "whoever has started it is still there"
        assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []
    finally:
        agent.kill()
    eventually(lambda: not session.agent_alive())


def test_a_machine_that_gives_no_more_processes_is_an_error_at_once(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detached, "_detached", lambda *_: ["/bin/sh", "-c", "exit 2"])
    with pytest.raises(OSError, match="no process can be started"):
        spawn_agent(session, {})
    assert not session.agent_alive()


def test_an_agent_that_cannot_be_started_leaves_its_place_free(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OSError, match="nowhere"):
        spawn_agent(session, {})
    assert not session.agent_alive()


TAKES_CREDENTIALS = """
import sys
sys.path[:0] = sys.argv.pop().splitlines()
from tailrace_agent.hosts.spawn import take_credentials
first, again = take_credentials(), take_credentials()
shown = b"".join(open(f"/proc/self/{name}", "rb").read() for name in ("environ", "cmdline"))
print(len(first["http://x"]), again, first["http://x"][:12].encode() in shown, flush=True)
"""


@pytest.mark.parametrize("in_memory", [True, False], ids=["memfd", "file"])
def test_credentials_of_any_length_reach_the_agent_and_nobody_else(
    session: Session, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr(spawn_module, "_BOOT", TAKES_CREDENTIALS)
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    before = open_descriptors()
    agent = spawn_agent(session, {"http://x": "secret" * 50_000})
    assert agent is not None
    eventually(lambda: not session.agent_alive())
    assert (session.dir / "agent.err").read_text() == "300000 {} False\n"
    assert sorted(path.suffix for path in session.shared.iterdir()) == [".lock", ".lock"]
    assert open_descriptors() <= before
    without = spawn_agent(session, {})
    assert without is not None
    eventually(lambda: not session.agent_alive())
    assert "KeyError" in (session.dir / "agent.err").read_text()


SHOWS_VARIABLES = """
import os
print(os.environ.get("TAILRACE_INSTALLED"), os.environ.get("MLFLOW_TRACKING_URI"), flush=True)
"""


def test_an_agent_does_not_get_the_store_plug_in_of_its_program(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn_module, "_BOOT", SHOWS_VARIABLES)
    monkeypatch.setenv("TAILRACE_INSTALLED", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "tailrace+https://host")
    agent = spawn_agent(session, {})
    assert agent is not None
    eventually(lambda: not session.agent_alive())
    assert (session.dir / "agent.err").read_text() == "None None\n"


def test_an_agent_has_nothing_in_its_environment_that_is_of_one_run(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_one_run = ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "RUN_NAME")
    for name in (*of_one_run, "TRACKING_USERNAME"):
        monkeypatch.setenv(f"MLFLOW_{name}", "x")
    monkeypatch.setattr(spawn_module, "_BOOT", LAST_WORDS.replace("sys.stdin.read()", "time.sleep(60)"))
    agent = spawn_agent(session, {})
    assert agent is not None
    variables = _the_process_of(agent).environ()
    agent.kill()
    found = {name.partition("=")[0] for name in variables if name.startswith("MLFLOW_")}
    assert found == {"MLFLOW_TRACKING_USERNAME", "MLFLOW_DISABLE_TELEMETRY"}
