"""What is started finds the packages that are installed, and runs nothing of what lies in the working directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.sdk_tools import lay_traps, named
from tailrace_agent.cli import _checks
from tailrace_agent.ipc.session import Session
from tailrace_agent.provenance.machine import packages
from tailrace_agent.runtime import interpreter
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.sources import load_settings

TRAIN = """
import tailrace as sdk
with sdk.start_run(run_name="trapped"):
    sdk.log(step=0, loss=0.5)
"""
SAFE_PATH = pytest.mark.skipif(not interpreter.HAS_SAFE_PATH, reason="Python 3.11 brought it")


@pytest.mark.slow
def test_an_agent_of_its_own_delivers_under_a_safe_path_and_runs_nothing_of_the_working_directory(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, sqlite_uri: str
) -> None:
    here = tmp_path_factory.mktemp("here")
    sprung = lay_traps(here)
    (tmp_path / "train.py").write_text(TRAIN)
    environ = {**os.environ, "TAILRACE_TRACKING_URI": sqlite_uri, "PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, str(tmp_path / "train.py")], cwd=here, env=environ, timeout=100, check=True)
    assert named(sqlite_uri, "trapped").history("loss") == [(0, 0.5)]
    (session,) = Session.all(load_settings())
    log = (session.dir / "agent.log").read_text()
    assert log.count('"agent started"') == 1
    assert '"host": "thread"' not in log
    assert sprung() == []


def test_the_doctor_starts_what_it_tries_without_running_what_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sprung = lay_traps(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert _checks.processes(Settings()).text.startswith("a process of its own can be started")
    assert {check.result for check in _checks.shared_memory(load_settings())} <= {"ok", "warn"}
    assert sprung() == []


def found_by(command: list[str], directory: Path, **variables: str) -> list[str]:
    """`sys.path` of what a command starts, as that prints it."""
    environ = {**os.environ, **variables}
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, timeout=60, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


PRINT = "import json\nprint(json.dumps(sys.path))"
STARTS = f"""
import os, subprocess, sys
sys.path += ["/more", "here", ""]
from tailrace_agent.runtime import interpreter
code = {PRINT!r}
subprocess.run(interpreter.command(code), env=interpreter.environment(), check=True)
"""
ROOT = str(Path(interpreter.__file__).parents[2])


@pytest.mark.parametrize("flags", [[], ["-E"], ["-I"], ["-S"], ["-s"], pytest.param(["-P"], marks=SAFE_PATH)], ids=str)
def test_whatever_python_was_told_what_it_starts_finds_packages_and_not_the_working_directory(
    flags: list[str], tmp_path: Path
) -> None:
    here, script = tmp_path / "here", tmp_path / "scripts" / "train.py"
    here.mkdir()
    script.parent.mkdir()
    places = [path for path in sys.path if Path(path).is_absolute()]
    script.write_text(f"import sys\nsys.path[:0] = {places!r}\n{STARTS}")
    (tmp_path / "link.py").symlink_to(script)
    asked = os.pathsep.join([".", "", "relative", "/asked", ROOT])
    for file in (script, tmp_path / "link.py"):
        found = found_by([sys.executable, *flags, str(file)], here, PYTHONPATH=asked)
        assert {ROOT, "/more", "/asked", *places} <= set(found)
        assert all(Path(path).is_absolute() for path in found)
        assert not {str(here), str(script.parent), str(tmp_path)} & set(found)


def test_a_directory_of_the_program_that_was_asked_for_by_its_name_comes_after_what_is_installed(
    tmp_path: Path,
) -> None:
    script = tmp_path / "train.py"
    script.write_text(STARTS)
    found = found_by([sys.executable, str(script)], tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), ROOT]))
    assert found[0] == ROOT
    assert found[-1] == str(tmp_path)


def test_the_packages_of_another_python_are_listed_without_running_what_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sprung = lay_traps(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}.")
    (tmp_path / "python").symlink_to(sys.executable)
    assert packages(str(tmp_path / "python")) != []
    assert sprung() == []
