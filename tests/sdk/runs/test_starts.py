"""How a program begins and ends where something is unusual: descriptors, paths, threads, a person at the keys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.sdk_tools import forget, named
from tailrace import Settings
from tailrace_agent.ipc.session import Session

AWAY = "http://127.0.0.1:9"

LOGS = """
import tailrace as sdk
with sdk.start_run(run_name="NAME", quiet=False) as run:
    sdk.log(step=0, loss=0.5)
    sdk.log_text("text", "text.txt")
"""

CLOSED = f"""
import os, time
for fd in (0, 1, 2):
    os.close(fd)
{LOGS}
    run.run_id
    time.sleep(0.5)  # a second agent would be there by now
"""

ONLY_HERE = f"""
import sys
sys.path[:0] = PATHS
{LOGS}
"""

DIES = f"""
import tailrace_agent.hosts.spawn
tailrace_agent.hosts.spawn._BOOT = "import no_such_package"
{LOGS}
"""

SILENT = f"""
import sys, pathlib
import tailrace._session.agent_keeper
host = pathlib.Path("host")  # a program that embeds Python
host.write_text("#!/bin/sh\\nsleep 1000\\n")
host.chmod(0o755)
sys.executable, tailrace._session.agent_keeper._FIRST_STATUS = str(host.absolute()), 1.0
{LOGS}
"""

GEVENT = f"""
from gevent import monkey
monkey.patch_all()
import gevent
{LOGS}
    gevent.joinall([gevent.spawn(sdk.log, {{"green": n}}, n) for n in range(20)])
"""

INTERRUPTED = f"""
import os, signal, threading, time
import tailrace as sdk

def press(run):
    while not run.ledger().of("metric").accepted:
        time.sleep(0.05)
    time.sleep(1.5)
    os.kill(os.getpid(), signal.SIGINT)

def train(name):
    with sdk.start_run(run_name=name, tracking_uri="{AWAY}", linger=0) as run:
        sdk.log(step=0, loss=0.5)
        threading.Thread(target=press, args=(run,), daemon=True).start()

train("first")
print("the script goes on", flush=True)
try:
    train("second")
except KeyboardInterrupt:
    print("the script is stopped", flush=True)
print("after it", flush=True)
"""


class Programs(NamedTuple):
    """What several programs have left behind."""

    uri: str
    directory: Path
    said: dict[str, str]

    def agents(self, name: str) -> str:
        (session,) = Session.all(Settings(dir=str(self.directory / name / "tailrace")))
        return (session.dir / "agent.log").read_text()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Programs:
    directory = tmp_path_factory.mktemp("starts")
    database = directory / "mlflow.db"
    database.write_bytes(sqlite_template.read_bytes())
    uri = f"sqlite:///{database}"
    paths = [path for path in sys.path if path and "python3" not in Path(path).name]
    codes = {
        "closed": (CLOSED, []),
        "only here": (ONLY_HERE.replace("PATHS", repr(paths)), ["-I", "-S"]),
        "dies": (DIES, []),
        "silent": (SILENT, []),
        "gevent": (GEVENT, []),
        "interrupted": (INTERRUPTED, []),
    }
    running = {}
    for name, (code, flags) in codes.items():
        (directory / name).mkdir()
        (directory / name / "train.py").write_text(code.replace("NAME", name))
        environ = {**os.environ, "TAILRACE_TRACKING_URI": uri, "TAILRACE_DIR": str(directory / name / "tailrace")}
        running[name] = subprocess.Popen(
            [sys.executable, *flags, "train.py"],
            cwd=directory / name,
            env={**environ, "TAILRACE_METADATA": "false"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = {}
    for name, program in running.items():
        out, err = program.communicate(timeout=100)
        said[name] = out + err
        assert program.returncode == 0, f"{name}: {said[name]}"
    return Programs(uri, directory, said)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["closed", "only here", "dies", "gevent"])
def test_all_of_it_arrives(programs: Programs, name: str) -> None:
    store = named(programs.uri, name)
    assert (store.status, store.history("loss"), store.artifacts()) == ("FINISHED", [(0, 0.5)], ["text.txt"])


@pytest.mark.slow
def test_with_its_standard_streams_closed_a_program_has_one_agent(programs: Programs) -> None:
    assert programs.agents("closed").count('"agent started"') == 1


@pytest.mark.slow
def test_an_agent_is_started_with_the_path_of_a_program_that_alone_finds_its_packages(programs: Programs) -> None:
    assert programs.agents("only here").count('"agent started"') == 1


@pytest.mark.slow
def test_where_agents_die_before_their_first_word_a_thread_delivers_and_it_is_said_once(programs: Programs) -> None:
    said = (
        "the agent process ends before it begins (ModuleNotFoundError: No module named 'no_such_package'); delivering"
    )
    assert programs.said["dies"].count(said) == 1
    assert '"host": "thread"' in programs.agents("dies")


@pytest.mark.slow
def test_where_an_agent_never_says_a_word_a_thread_delivers_and_it_is_said_once(programs: Programs) -> None:
    assert programs.said["silent"].count("/host a Python?); delivering from a thread of this program instead") == 1
    assert '"host": "thread"' in programs.agents("silent")


@pytest.mark.slow
def test_under_gevent_the_agent_is_a_process_and_every_greenlet_is_heard(programs: Programs) -> None:
    assert programs.agents("gevent").count('"agent started"') == 1
    assert sorted(named(programs.uri, "gevent").history("green")) == [(n, float(n)) for n in range(20)]


@pytest.mark.slow
def test_ctrl_c_in_a_final_wait_ends_the_wait_and_a_second_one_the_script(programs: Programs) -> None:
    said = programs.said["interrupted"].splitlines()
    trained = [line for line in said if line.startswith(("the script", "after"))]
    assert trained == ["the script goes on", "the script is stopped", "after it"]
    (left,) = [line for line in said if "when the wait was interrupted" in line]
    assert "3 points not delivered after " in left  # its best value and the step of that, too
    assert "60.0 s" not in left
    assert "(Ctrl-C again stops the program). Nothing is lost: the agent goes on" in left
    forget(programs.directory / "interrupted")


OF_PYTEST = """
import os
import pytest
import tailrace

@pytest.mark.parametrize("n", range(2))
def test_trains(n, tmp_path):
    with tailrace.start_run(run_name=f"test {n}") as run:
        tailrace.log(step=n, loss=0.5)
    if n:
        with tailrace.Tracker(experiment_name="other", quiet=True, agent="thread") as tracker:
            tracker.log(step=n, loss=0.5)
            assert tracker.flush(20).settled
            assert len(tracker.search_runs()) == 1
"""


@pytest.mark.slow
def test_tests_that_treat_warnings_as_errors_may_use_tailrace(tmp_path: Path, sqlite_uri: str) -> None:
    (tmp_path / "test_training.py").write_text(OF_PYTEST)
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-W",
            "error",
        ],
        cwd=tmp_path,
        env={**os.environ, "TAILRACE_TRACKING_URI": sqlite_uri, "PYTHONTRACEMALLOC": "0"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "ResourceWarning" not in done.stdout + done.stderr
    forget(tmp_path)
